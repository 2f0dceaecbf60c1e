"""What the techniques of distillation share."""
