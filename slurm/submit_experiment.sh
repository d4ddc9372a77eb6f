#!/bin/bash
# A whole experiment: preflight here, then a training job, then an evaluation that starts when training has succeeded and
# is taken out of the queue when it has failed.
#
#   slurm/submit_experiment.sh CONFIG [--dry-run] [--eval FILE] [--like NAME] [--any.flag value ...]
#
#   CONFIG            a preset's name (qwen3-8b), or a YAML file of yours
#   --dry-run         print what would be submitted
#   --eval FILE       what is evaluated (default: slurm/configs/eval/ with CONFIG's name, or --like's, else paper.yaml)
#   --like NAME       run a YAML of yours with slurm/NAME.sbatch (default: the script of its own name)
#   --skip-preflight  do not check here, where that takes too long; the job's own checks remain
#   --sbatch "FLAGS"  more of sbatch's flags for the training: --sbatch "--nodes=1 --gpus-per-node=4 --exclude=n7"
#   --sbatch-eval "FLAGS"  the same for the evaluation, after those of its YAML
#
# All other flags are the trainer's. Account, partition and so on, for both jobs: slurm/site.env.
set -euo pipefail

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# submit SBATCH FLAG...: the job's id; with --dry-run one is made up, and the command only shown
submit() {
    local id=TRAINING_JOB
    echo "sbatch $*" >&2
    ((dry)) || id=$(sbatch --parsable "$@") || return 1
    echo "${id%;*}" # a federation adds the cluster's name
}

# preflight FLAG...: before anything waits in the queue. Where the job's Python cannot be run here, as a container's cannot,
# it is left to the job, which runs it in any case.
preflight() {
    local status=0
    (
        load_secrets # for the hub; in here, so that they do not travel with the jobs, which read them themselves
        exec "${MEL_PYTHON:-$PWD/.venv/bin/python}" -m openrlhf_mel.preflight "${PREFLIGHT_FLAGS[@]}" "$@" >&2
    ) || status=$?
    case $status in
        0) ;;
        2) fail "preflight refused $config: nothing was submitted" ;;
        126 | 127) say "this machine cannot run MEL_PYTHON: preflight is left to the job" >&2 ;;
        *) fail "preflight ended with exit code $status: nothing was submitted (--skip-preflight goes on without)" ;;
    esac
}

# asked FLAG: its value in --sbatch, else in the training script
asked() {
    {
        sed -n 's/^#SBATCH //p' "slurm/$like.sbatch"
        sed -E 's/(^| )-N ?/\1--nodes=/' <<<"${more[*]}"
    } | sed -nE "s/.*--$1[= ]([^ ]+).*/\1/p" | tail -n 1
}

main() {
    local config=${1:-} name like='' evaluation='' dry=0 check=1 flags=() allocation=() more=() more_eval=() extra train_id
    local eval_id gpus
    [[ -n $config && $config != -* ]] || usage
    shift
    while (($#)); do
        case $1 in
            --dry-run) dry=1 ;;
            --skip-preflight) check=0 ;;
            --eval) evaluation=$(realpath -s "$2") && shift ;;
            --like) like=$2 && shift ;;
            --sbatch) read -ra more <<<"$2" && shift ;;
            --sbatch-eval) read -ra more_eval <<<"$2" && shift ;;
            *) flags+=("$1") ;;
        esac
        shift
    done
    [[ ! -f $config ]] || config=$(realpath -s "$config")
    cd "$(dirname "$0")/.."
    . slurm/lib/own.sh
    # Inside a job sbatch would take some of that job's variables for the user's wishes (SLURM_HINT, SLURM_HOSTFILE).
    [[ -z ${SLURM_JOB_ID:-} ]] || keep_variables SLURM_CONF SLURM_CLUSTERS
    . slurm/lib/job.sh
    read_site
    [[ -f $config ]] || config=slurm/configs/train/$config.yaml
    [[ -f $config ]] || fail "$config: no such file; expected one of $(list slurm/configs/train/*.yaml), or a YAML of yours"
    config=$(realpath -s --relative-base="$PWD" "$config")
    name=$(basename "${config%.y*ml}")
    like=${like:-$name}
    [[ -f slurm/$like.sbatch ]] || fail "slurm/$like.sbatch: no such script; --like NAME says which one $config is run with"
    for extra in "$name" "$like" paper; do
        [[ -n $evaluation || ! -f slurm/configs/eval/$extra.yaml ]] || evaluation=slurm/configs/eval/$extra.yaml
    done
    [[ -f $evaluation ]] || fail "--eval $evaluation: no such file"
    read_flags "$config" "${flags[@]}"

    gpus=$(asked gpus-per-node)
    [[ $gpus != 0 ]] || gpus=$(asked gres)
    gpus=${gpus##*:} # h100:8
    [[ -z $gpus ]] || allocation=(--nodes "$(asked nodes)" --gpus-per-node "$gpus")
    ((!check)) ||
        preflight --config "$config" "${allocation[@]}" --mel.run_dir "$RUN_DIR" --ckpt.load_enable "${flags[@]}"
    read -ra extra < <(sed -n 's/^sbatch: *\([^#]*\).*/\1/p' "$evaluation" | tr -d "\"'") || true
    train_id=$(submit "${more[@]}" "slurm/$like.sbatch" --config "$config" "${flags[@]}") || fail "the training was refused"
    eval_id=$(submit --dependency="afterok:$train_id" --kill-on-invalid-dep=yes "${extra[@]}" "${more_eval[@]}" \
        slurm/eval.sbatch --config "$evaluation" --run "$RUN_DIR" --output-dir "$RUN_DIR-eval") ||
        fail "training job $train_id is in the queue, its evaluation was refused"
    ((dry)) && return
    cat <<EOS
training    job $train_id   log: $PWD/slurm/logs/*-$train_id.log   run: $RUN_DIR
evaluation  job $eval_id   log: $PWD/slurm/logs/eval-${eval_id}_*.log   results: $RUN_DIR-eval
watch with: squeue -j $train_id,$eval_id   end with: scancel $train_id $eval_id
EOS
}

main "$@"
