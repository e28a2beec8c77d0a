"""Training and distillation: losses, data iterators, schedules, the loop and its hooks."""
