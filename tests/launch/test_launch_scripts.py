"""The scripts that start many hosts, as far as they run without any."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from t5x_lite import cli

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / 'launch'


@pytest.fixture
def programs(tmp_path):
  """Function that puts a script where shells find it before others of that name."""

  def add(name, text):
    path = tmp_path / 'programs' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\n{text}\n')
    path.chmod(0o755)

  return add


def start(script, *arguments, folder, **environment):
  """Starts a script of launch/ in a folder, in which what it runs writes `log`."""
  path = f'{folder}/programs:{os.environ["PATH"]}'
  return subprocess.Popen(
    ['bash', str(LAUNCH / script), *arguments],
    cwd=folder,
    env=os.environ | {'PATH': path, 'HOME': str(folder)} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.mark.skipif(shutil.which('shellcheck') is None, reason='needs shellcheck')
def test_the_scripts_are_free_of_what_shellcheck_finds():
  scripts = [*LAUNCH.glob('*.sh'), LAUNCH.parent / '.ci' / 'run']
  command = ['shellcheck', '--external-sources', *scripts]
  found = subprocess.run(command, cwd=LAUNCH.parent, stdout=subprocess.PIPE, text=True)
  assert found.returncode == 0, found.stdout


# A program that notes how it was called, and ends with the next of some statuses.
PROGRAM = """
echo "$@" >>log
mapfile -t all <statuses
printf '%s\\n' "${all[@]:1}" >statuses
exit "${all[0]}"
"""


@pytest.mark.parametrize(
  ('statuses', 'restarts', 'status', 'num_calls'),
  [
    ('0', 3, 0, 1),
    ('2', 3, 2, 1),
    ('1', 3, 1, 1),
    ('75 137 0', 3, 0, 3),
    ('75 75 75', 1, 75, 2),
  ],
)
@pytest.mark.parametrize('script', ['slurm.sh', 'tpu_pod.sh'])
def test_what_was_lost_is_started_again_and_what_is_wrong_is_not(
  script, statuses, restarts, status, num_calls, programs, tmp_path
):
  (tmp_path / 'statuses').write_text(statuses.replace(' ', '\n') + '\n')
  programs('srun', '[[ $1 == --wait=* ]] && shift\nexec "$@"')
  # As it would on one of the hosts.
  programs('gcloud', 'echo "$*" >gcloud; exec bash -c "${!#/--command=/}"')
  programs('t5x-lite', PROGRAM)
  host = tmp_path / 't5x_lite' / '.venv' / 'bin'
  host.mkdir(parents=True)
  (host / 't5x-lite').write_text(f'#!/usr/bin/env bash\ncd "$HOME"\n{PROGRAM}')
  (host / 't5x-lite').chmod(0o755)
  argument = "--gin.TASK_FEATURE_LENGTHS={'inputs': 8}"
  process = start(
    script, 'train', argument, folder=tmp_path, RESTARTS=str(restarts), TPU='mine', ZONE='here'
  )
  printed = process.communicate(timeout=60)[0]
  assert process.returncode == status, printed
  assert (tmp_path / 'log').read_text() == f'train {argument}\n' * num_calls
  if script == 'tpu_pod.sh':
    called = (tmp_path / 'gcloud').read_text()
    assert called.startswith('compute tpus tpu-vm ssh mine --zone=here --worker=all --command=')


def test_a_job_of_slurm_whose_time_is_over_saves_and_is_queued_again(programs, tmp_path):
  programs('srun', '[[ $1 == --wait=* ]] && shift\nexec "$@"')
  programs('scontrol', 'echo "scontrol $*" >>log')
  programs('t5x-lite', 'trap "echo saved >>log; exit 75" TERM\ntouch ready\nread -r <>fifo')
  os.mkfifo(tmp_path / 'fifo')
  process = start('slurm.sh', 'train', folder=tmp_path, SLURM_JOB_ID='17')
  while not (tmp_path / 'ready').exists():
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  printed = process.communicate(timeout=60)[0]
  assert process.returncode == 0, printed
  assert (tmp_path / 'log').read_text() == 'saved\nscontrol requeue 17\n'


def job_set():
  return yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())


def test_the_job_set_has_the_fields_of_its_version_and_no_others():
  found = job_set()
  assert (found['apiVersion'], found['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  spec = found['spec']
  assert spec.keys() == {'failurePolicy', 'replicatedJobs'}
  assert spec['failurePolicy']['maxRestarts'] > 0
  [rule] = spec['failurePolicy']['rules']
  assert rule.keys() == {'name', 'action', 'onJobFailureReasons'}
  assert rule['action'] == 'FailJobSet' and rule['onJobFailureReasons'] == ['PodFailurePolicy']
  [job] = spec['replicatedJobs']
  assert job.keys() == {'name', 'replicas', 'template'}
  job = job['template']['spec']
  assert job['parallelism'] == job['completions'] and job['backoffLimit'] == 0
  pod = job['template']['spec']
  [container] = pod['containers']
  [pod_rule] = job['podFailurePolicy']['rules']
  assert pod_rule['onExitCodes']['containerName'] == container['name']
  assert pod['terminationGracePeriodSeconds'] >= 60
  volumes = {volume['name'] for volume in pod['volumes']}
  assert {mount['name'] for mount in container['volumeMounts']} == volumes


def test_the_jobs_of_the_job_set_are_valid_in_kubernetes():
  validate = pytest.importorskip('kubernetes_validate')
  [job] = job_set()['spec']['replicatedJobs']
  whole = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'x'}, **job['template']}
  validate.validate(whole, validate.latest_version(), strict=True)
  del whole['spec']['template']['spec']['containers'][0]['name']
  with pytest.raises(validate.ValidationError):
    validate.validate(whole, validate.latest_version(), strict=True)


def test_the_command_of_the_job_set_is_one_of_ours():
  [job] = job_set()['spec']['replicatedJobs']
  [container] = job['template']['spec']['template']['spec']['containers']
  program, *command = container['command']
  args, overrides = cli._parse_arguments([*command, *container['args']])
  assert program == 't5x-lite' and args.command == 'train'
  assert "TASK_FEATURE_LENGTHS={'inputs':512,'targets':114}" in overrides
  for name in args.gin_file:
    assert (LAUNCH.parent / 'gin_configs' / name).is_file()
