"""Animated graphs of units: one SVG with a slider and a button, played by a short script that loads nothing.

Until a reader plays it, the picture is the last frame. It stays that on paper, in a notebook that is not trusted, and
without scripts. Nothing moves by itself.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import display

Frame = tuple[np.ndarray, np.ndarray]  # (units, 2) positions, (edges, 2) numbers of connected units
WIDTH, MARGIN, HEAD = 600, 14, 48  # of one panel; around what it shows; above it, for its label
SECONDS = 6  # to play all frames
DOT = 9  # width of a unit

CONTROLS = """<style>
.graph-animation .controls:not([hidden]) {align-items: center; display: flex; flex-wrap: wrap; gap: 0.8em}
.graph-animation button {background: none; border: 1px solid; border-radius: 4px; color: inherit; font: inherit}
.graph-animation input {flex: 1 1 12em; min-width: 0}
.graph-animation svg {background: white; height: auto; max-width: 100%}
.graph-animation figcaption, .graph-animation figcaption * {color: inherit !important}
@media print {.graph-animation .controls {display: none !important}}
</style>"""
SCRIPT = """<script>
for (const figure of document.querySelectorAll(".graph-animation:not([data-ready])")) {
  figure.dataset.ready = "";
  const [button, slider, said] = figure.querySelectorAll("button, input, .said");
  const steps = JSON.parse(figure.dataset.steps), last = steps.length - 1;
  const panels = [...figure.querySelectorAll("g[data-frames]")].map(panel => ({
    frames: JSON.parse(panel.dataset.frames),
    edges: panel.querySelector(".edges"), units: panel.querySelector(".units"),
  }));
  let timer = null;
  const show = now => {  // between two frames with as many units, these move evenly
    const frame = Math.round(now), before = Math.floor(now), part = now - before;
    for (const {frames, edges, units} of panels) {
      const [one, other] = [frames[before][0], frames[Math.min(before + 1, last)][0]];
      const places = one.length === other.length
        ? one.map((at, i) => at + part * (other[i] - at)) : frames[frame][0];
      const place = unit => places[2 * unit].toFixed(1) + " " + places[2 * unit + 1].toFixed(1);
      const pairs = frames[frame][1];
      let path = "";
      for (let i = 0; i < pairs.length; i += 2) path += `M${place(pairs[i])}L${place(pairs[i + 1])}`;
      edges.setAttribute("d", path);
      units.setAttribute("d", Array.from({length: places.length / 2}, (_, i) => `M${place(i)}h0`).join(""));
    }
    said.textContent = `after ${steps[frame].toLocaleString("en")}`;
    slider.setAttribute("aria-valuetext", said.textContent);
  };
  const stop = () => { cancelAnimationFrame(timer); timer = null; button.textContent = "Play"; };
  const play = begun => time => {
    slider.value = Math.min(last, begun.at + (time - (begun.time ??= time)) * last / (1000 * begun.seconds));
    show(+slider.value);
    if (slider.value < last) timer = requestAnimationFrame(play(begun)); else stop();
  };
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    button.textContent = "Pause";
    const begun = {at: slider.value < last ? +slider.value : 0, time: null, seconds: +figure.dataset.seconds};
    timer = requestAnimationFrame(play(begun));
  });
  slider.addEventListener("input", () => { stop(); show(+slider.value); });
  figure.querySelector(".controls").hidden = false;
}
</script>"""


def graphs(
    panels: Mapping[str, tuple[dict[str, Any], np.ndarray, Sequence[Frame]]],
    *,
    steps: Sequence[int],
    unit: str,
    alt: str,
    name: str,
    caption: str,
) -> None:
    """Show graphs of units as they learn, side by side. The reader plays them, or goes to a step with the slider.

    panels: label -> (look, samples (n, 2), a frame for each step); a look is one of :data:`lib.figures.LOOKS`.
    steps: how many units of learning came before each frame, ascending.
    unit: what the steps count, such as ``"samples"``.
    alt: a text that replaces the picture and states its finding.
    name: the id of the figure.
    caption: shown below the figure.

    Raises ValueError for no panels, fewer than two steps, a panel without samples or with more or fewer frames than
    steps, and a text or caption of fewer than four words.
    """
    for what, text in (("alt", alt), ("caption", caption)):
        if len(text.split()) < 4:
            raise ValueError(f"{what} of figure {name!r} is {text!r}: a sentence that states the finding is needed")
    if len(steps) < 2 or list(steps) != sorted(set(steps)):
        raise ValueError(f"steps of figure {name!r} are {list(steps)}; they must be two or more, ascending")
    if not panels:
        raise ValueError(f"figure {name!r} has no panels; one or more are needed")
    for label, (_, samples, frames) in panels.items():
        if len(frames) != len(steps):
            raise ValueError(f"the panel {label!r} has {len(frames)} frames; there are {len(steps)} steps")
        if not len(samples):
            raise ValueError(f"the panel {label!r} has no samples; they say how far it reaches")
    drawn = [_panel(label, *panel) for label, panel in panels.items()]
    tall = max(height for _, height in drawn)
    groups = "".join(f'<g transform="translate({i * WIDTH} 0)">{group}</g>' for i, (group, _) in enumerate(drawn))
    says = f"{unit}, from {steps[0]:,} to {steps[-1]:,}"
    display(
        {
            "text/html": (
                f'<figure class="graph-animation" id="{name}" data-seconds="{SECONDS}"'
                f' data-steps="{json.dumps(list(map(int, steps)))}">{CONTROLS}'
                f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(alt)}"'
                f' viewBox="0 0 {WIDTH * len(drawn)} {tall}" width="{WIDTH * len(drawn)}">{groups}</svg>'
                '<div class="controls" hidden><button type="button">Play</button>'
                f'<input type="range" min="0" max="{len(steps) - 1}" step="any" value="{len(steps) - 1}"'
                f' aria-label="{html.escape(says)}"><span><span class="said">after {steps[-1]:,}</span>'
                f" {html.escape(unit)}</span></div>"
                f"<figcaption><p>{html.escape(caption)}</p></figcaption>{SCRIPT}</figure>"
            ),
            "text/plain": alt,
        },
        raw=True,
    )


def _panel(label: str, look: dict[str, Any], samples: np.ndarray, frames: Sequence[Frame]) -> tuple[str, int]:
    """The SVG of one panel, in its last frame, and its height."""
    low, high = samples.min(axis=0), samples.max(axis=0)
    scale = (WIDTH - 2 * MARGIN) / max(high[0] - low[0], high[1] - low[1], 1e-12)
    left = (WIDTH - scale * (high[0] - low[0])) / 2
    height = round(HEAD + MARGIN + scale * (high[1] - low[1]))

    def places(points: np.ndarray) -> np.ndarray:
        across, down = left + scale * (points[:, 0] - low[0]), HEAD + scale * (high[1] - points[:, 1])
        return np.rint(np.stack([across, down], axis=1)).astype(int)

    def dots(points: np.ndarray) -> str:
        return "".join(f"M{x} {y}h0" for x, y in points)

    kept = [[places(units).ravel().tolist(), np.asarray(edges, dtype=int).ravel().tolist()] for units, edges in frames]
    units, edges = places(frames[-1][0]), np.asarray(frames[-1][1], dtype=int).reshape(-1, 2)
    lines = "".join(f"M{a[0]} {a[1]}L{b[0]} {b[1]}" for a, b in units[edges])
    color = html.escape(look["color"])
    return (
        f'<text x="{WIDTH // 2}" y="28" text-anchor="middle" font-size="28">{html.escape(label)}</text>'
        f'<g fill="none" stroke-linecap="round" data-frames="{json.dumps(kept, separators=(",", ":"))}">'
        f'<path stroke="#d0d0d0" stroke-width="5" d="{dots(places(samples))}"/>'
        f'<path class="edges" stroke="{color}" stroke-width="2.5" d="{lines}"/>'
        f'<path class="units" stroke="{color}" stroke-width="{DOT}" d="{dots(units)}"/></g>',
        height,
    )
