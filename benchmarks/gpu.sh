#!/usr/bin/env bash
# Everything that only a CUDA device can tell, in about fourteen minutes: the kernels' tests first,
# then the tables. Needs torch, triton, pytest and hypothesis; nothing else of segkit's packages.
# Results stand in benchmarks/results/; the tests' report in benchmarks/results/gpu_tests.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
unset TRITON_INTERPRET
export PYTHONPATH="$PWD" TRITON_DEFAULT_FP_FUSION=1
python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || {
    echo "no CUDA device: nothing to measure" >&2
    exit 1
}
timeout 300 python -m pytest tests/kernels/test_kernel_*.py -o addopts= -o filterwarnings= \
    -p no:cacheprovider -q 2>&1 | tee benchmarks/results/gpu_tests.txt
tests=${PIPESTATUS[0]}
timeout 330 python -m benchmarks.bench_kernels --rounds 10
tables=$?
# whole models need the whole package
if python -c 'import segkit.backbones.sam' 2>/dev/null; then
    timeout 220 python -m benchmarks.bench_gpu --rounds 10
fi
[ "$tests" -eq 0 ] && [ "$tables" -eq 0 ]
