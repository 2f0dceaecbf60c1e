/* Questions: opening an answer says whether the choice was right, and counts. Closing it lets the reader choose again. */
"use strict";

{
  const startQuiz = (quiz) => {
    const questions = [...quiz.querySelectorAll(".quiz-question")];
    const chosenIn = (question) => question.querySelector("input:checked")?.closest("label");
    const isRight = (question) => chosenIn(question)?.matches(".quiz-right") ?? false;
    const isOpen = (question) => question.querySelector("details").open;

    const say = (text, place) => {
      const line = Object.assign(document.createElement("p"), { className: "quiz-said" });
      line.setAttribute("role", "status");
      place(line);
      return (now) => { if (line.textContent !== now) line.textContent = now; };
    };
    const score = questions.length > 1 ? say("", (line) => quiz.append(line)) : () => {};

    const count = () => {
      const answered = questions.filter((question) => isOpen(question) && chosenIn(question));
      const right = answered.filter(isRight).length;
      score(answered.length === questions.length ? `You have ${right} of ${questions.length} right.` : "");
    };

    for (const question of questions) {
      const answer = question.querySelector("details");
      const verdict = say("", (line) => answer.before(line));
      answer.addEventListener("toggle", () => {
        const judged = answer.open && chosenIn(question) !== undefined;
        for (const input of question.querySelectorAll("input")) input.disabled = judged;
        verdict(!judged ? "" : isRight(question) ? "Right." : "Not this time.");
        count();
      });
    }
  };

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".quiz").forEach(startQuiz));
}
