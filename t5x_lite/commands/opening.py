"""What `eval` and `infer` have in common: the task that goes with a run. No command of its own."""


def find_task(run, mixture_or_task_name=None) -> str:
  """Returns the name of a registered task or mixture whose vocabulary is the run's.

  Args:
    run: `evaluation.runs.Run`; if its own modules are needed to find the task, they are imported.
    mixture_or_task_name: None for what the run was trained on.

  Raises:
    UserError: there is no such task, or its vocabulary is another.
  """
  import t5x_lite.tasks  # noqa: F401 - registers them
  from t5x_lite import errors, modules
  from t5x_lite.data import batches, vocabulary

  name = mixture_or_task_name or run.mixture_or_task_name
  try:
    features = batches.output_features(name)
  except errors.UserError:
    if not run.modules:
      raise
    modules.import_all(run.modules)
    features = batches.output_features(name)
  vocabulary.check_same(
    run.vocabulary,
    vocabulary.fingerprint(features['targets'].vocabulary),
    model=f'the run in {run.folder}',
    task=name,
  )
  return name
