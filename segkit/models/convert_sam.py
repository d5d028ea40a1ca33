"""Official SAM files."""

from segkit.models.conversion_task import Conversion, Task, find_sam


def convert_sam(task: Task) -> Conversion:
    """Convert value for value."""
    state = task.state()
    sizes = find_sam(state, task)
    task.write_weights(task.out, state)
    return task.record(sizes.name, {"weights": task.out})
