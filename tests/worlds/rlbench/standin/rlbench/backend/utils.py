from importlib import import_module

from standin_log import called


def task_file_to_task_class(task_file):
    called("task_file_to_task_class", task_file)
    name = "".join(word.capitalize() for word in task_file.removesuffix(".py").split("_"))
    return getattr(import_module(f"rlbench.tasks.{task_file.removesuffix('.py')}"), name)
