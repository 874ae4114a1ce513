#!/usr/bin/env bash
# Everything a GPU is needed for, in under nine minutes: the correctness of every kernel, then the
# benchmarks. Needs no network. Results go to ${OUT:-benchmarks/results/new}; a table comes last.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results/new}
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-525}  # seconds for all steps together
mkdir -p "$OUT"
unset TRITON_INTERPRET
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=0

# step NAME SECONDS COMMAND...: run under a limit, output to NAME.log; red when it fails.
step() {
    local name=$1 seconds=$2 left=$((LIMIT - SECONDS)) start=$SECONDS code=0
    shift 2
    [ "$left" -lt 10 ] && { echo "$name: skipped, no time left"; failed=1; return 1; }
    [ "$seconds" -gt "$left" ] && seconds=$left
    timeout --kill-after=5 "$seconds" "$@" >"$OUT/$name.log" 2>&1 || code=$?
    echo "$name: exit $code after $((SECONDS - start)) s"
    [ "$code" -eq 0 ] || failed=1
    return "$code"
}

bench() {  # bench NAME SECONDS FOLDER ARGUMENTS...
    local name=$1 seconds=$2 folder=$3
    shift 3
    # The suite stops by itself and says what it left out; compiled providers come last.
    step "$name" "$seconds" "$PYTHON" -m benchmarks --limit $((seconds - 15)) \
        --out "$OUT/$folder" "$@"
}

nvidia-smi >"$OUT/device.log" 2>&1 || true
# Without an install the checkout itself is on the path.
step install 40 "$PYTHON" -m pip install --no-deps --no-build-isolation -e . || failed=0

workers=()
"$PYTHON" -c 'import xdist' 2>/dev/null && workers=(-n 8)
step kernels 150 "$PYTHON" -m pytest -q -m "kernel or gpu" "${workers[@]}" tests/kernels
tail -n 1 "$OUT/kernels.log"
grep -E '^(FAILED|ERROR)' "$OUT/kernels.log" | cut -c1-160 | head -n 20

names() { "$PYTHON" -m benchmarks.registry "$@"; }  # the table says what there is

# shellcheck disable=SC2046  # one word a name
{
plain=(--providers eager sdpa fastdet --seconds 0.3)
bench small 60 results --seconds 0.3 --dtypes fp32 fp16 bf16 -- \
    $(names --kind operator --no-trains)
bench operators 150 results "${plain[@]}" --dtypes bf16 -- $(names --kind operator --trains)
bench attention 60 results-wide "${plain[@]}" --dtypes fp32 fp16 -- \
    $(names --kind operator --provider sdpa)
bench components 70 results "${plain[@]}" -- $(names --kind component)
bench models 45 results "${plain[@]}" --dtypes bf16 --kind detector model
# torch.compile takes longer to compile than all the rest to run: two shapes and one data type.
bench compiled 65 compiled --seconds 0.3 --dtypes bf16 --shapes swin_t_s1_b2 swin_t_s3_b2 \
    800x1344_b2 --providers compile fastdet -- $(names --provider sdpa)
}

for folder in results results-wide compiled; do
    [ -d "$OUT/$folder" ] || continue
    "$PYTHON" -m benchmarks.plot "$OUT/$folder" >"$OUT/plot-$folder.log" 2>&1 || failed=1
    "$PYTHON" -m benchmarks.records "$OUT/$folder" >"$OUT/$folder.txt"
done
for folder in results results-wide compiled; do
    [ -d "$OUT/$folder" ] && "$PYTHON" -m benchmarks.records --short "$OUT/$folder"
done
echo "$SECONDS s in all; $([ "$failed" -eq 0 ] && echo green || echo RED)"
exit "$failed"
