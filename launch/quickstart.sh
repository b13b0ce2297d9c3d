#!/usr/bin/env bash
# Trains a small T5 on real English text, from nothing to answers, in less than ten minutes on two cores:
# a vocabulary, pre-training by span corruption, and fine-tuning on the sentiment of film reviews; to
# compare, the same training from scratch, and a classifier that counts words. Then it evaluates the
# model and asks it for its opinion.
#
#   bash launch/quickstart.sh            keeps everything in quickstart_runs/
#   bash launch/quickstart.sh FOLDER     keeps it in another folder
#
# A stage that is done is not done again, and one that was stopped goes on from its last checkpoint.
# Remove the folder to start anew.
#
# PRETRAIN_STEPS, FINETUNE_STEPS   in place of those in gin_configs/quickstart/
# PYTHON, VENV                     see launch/environment.sh
set -euo pipefail
folder=${1:+$(realpath -m "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

make_environment quickstart
export TF_ENABLE_ONEDNN_OPTS=0 # Without which TensorFlow says at each start that it has them.

folder=${folder:-quickstart_runs}
mkdir -p "$folder"
settings="PRETRAIN_STEPS=${PRETRAIN_STEPS:-} FINETUNE_STEPS=${FINETUNE_STEPS:-}"
if [[ -e $folder/settings && $(<"$folder/settings") != "$settings" ]]; then
  fail "$folder holds runs with $(<"$folder/settings"), not $settings: remove it, or name another"
fi
echo "$settings" >"$folder/settings"

# stage NAME TEXT COMMAND... says what comes, runs the command unless that was done before, and
# keeps how many seconds it took.
stage() {
  local name=$1 text=$2 start=$SECONDS
  shift 2
  printf '\n== %s\n' "$text"
  if grep -qs "^$name"$'\t' "$folder/stages.tsv"; then
    echo "done before"
    return
  fi
  echo "\$ $*"
  "$@"
  printf '%s\t%d\n' "$name" $((SECONDS - start)) >>"$folder/stages.tsv"
}

pretrain=(--gin_file=quickstart/pretrain.gin ${PRETRAIN_STEPS:+--gin.TRAIN_STEPS=$PRETRAIN_STEPS})
finetune=(--gin_file=quickstart/finetune.gin ${FINETUNE_STEPS:+--gin.TRAIN_STEPS=$FINETUNE_STEPS})

stage vocabulary 'Train a vocabulary, once for all runs, and see what the model will learn from' \
  t5x-lite tasks show quickstart_span_corruption --lengths=inputs=32,targets=8 --examples=1

stage pretrain 'Pre-train: fill the gaps in texts without any labels' \
  t5x-lite train "${pretrain[@]}" --gin.MODEL_DIR="$folder/pretrain"

stage finetune 'Fine-tune: say whether a review is positive or negative' \
  t5x-lite train "${finetune[@]}" --gin.MODEL_DIR="$folder/finetune" \
  --gin.INITIAL_CHECKPOINT_PATH="$folder/pretrain"

stage from_scratch 'Train in the same way, but not from the pre-trained model' \
  t5x-lite train "${finetune[@]}" --gin.MODEL_DIR="$folder/from_scratch" \
  --gin.INITIAL_CHECKPOINT_PATH=None

stage baseline 'To compare, count words: TF-IDF with logistic regression, on the same reviews' \
  python launch/quickstart_baseline.py "$folder"

stage eval 'Evaluate the fine-tuned model on sentences that no stage has trained on' \
  t5x-lite eval --gin.MODEL_DIR="$folder/finetune" \
  --gin.MIXTURE_OR_TASK_NAME=quickstart_sentiment_rotten_tomatoes

cat >"$folder/questions.txt" <<'END'
sst2 sentence: a warm, funny and beautifully acted film that stays with you
sst2 sentence: two dull hours that i will never get back
sst2 sentence: the plot is a mess, and the jokes fall flat
sst2 sentence: one of the best performances of the year
sst2 sentence: it could have been good, but nobody seems to have tried
END
stage infer 'Ask it about sentences of your own, one a line' \
  t5x-lite infer --gin.MODEL_DIR="$folder/finetune" --gin.INPUT="$folder/questions.txt" \
  --gin.OUTPUT="$folder/answers.jsonl"

printf '\n== What came out\n'
python launch/quickstart_report.py "$folder"
