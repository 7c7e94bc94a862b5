#!/usr/bin/env bash
# Compress a real checkpoint on real text and classify sentences with the result: what `make demo` runs.
# The sentences come in DEMO_SENTENCES, separated by `|`. A second run goes on from where the first one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv/bin
export HF_HUB_OFFLINE=1

texts=()
while read -r sentence; do
    if [[ -n $sentence ]]; then texts+=("--text=$sentence"); fi
done < <(tr '|' '\n' <<<"${DEMO_SENTENCES:-}")
if [[ ${#texts[@]} -eq 0 ]]; then
    echo "error: no sentence to classify; give some, as in: make demo SENTENCES='A joy.|Too long.|I liked it.'" >&2
    exit 1
fi

"$bin/python" scripts/prepare_demo.py demo
"$bin/compresskit" apply cost-eff-demo --model demo/checkpoint --data demo/data --max-train-rows 4000 \
    --out demo/out
"$bin/compresskit" predict demo/out "${texts[@]}"
