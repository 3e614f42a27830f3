use "m6"

model small(x: f32[4, 8]) {
    return mean(gelu(linear(x, 8)))
}
# Refused targets, with the reason; no NVRTC is needed to know it, nor for sources alone.
# RUN: export M6C_NVRTC=/none/libnvrtc.so; for t in sm_70 sm_61 sm_75 sm_99 sm_80a nonsense; do m6c compile %s --target $t -o plan; echo "status $?"; done 2>&1
# RUN: M6C_NVRTC=/none/libnvrtc.so m6c compile %s --target sm_80 -o plan 2>&1; echo "status $?"
# RUN: M6C_NVRTC=/none/libnvrtc.so m6c compile %s --target sm_80 --plan-only -o plan >/dev/null && ls plan && grep '^target' plan/plan.txt
# RUN: m6c run plan --data random:1 --steps 1 --device cpu 2>&1; echo "status $?"
# EXPECT:
m6c: sm_70 (Volta) is not supported: CUDA 13's NVRTC no longer compiles for GPUs before sm_75, and they have neither bf16 arithmetic nor cp.async; the oldest is sm_80
status 2
m6c: sm_61 is not supported: CUDA 13's NVRTC no longer compiles for GPUs before sm_75, and they have neither bf16 arithmetic nor cp.async; the oldest is sm_80
status 2
m6c: sm_75 (Turing) is not supported: it has neither bf16 arithmetic nor cp.async; the oldest is sm_80
status 2
m6c: unknown GPU architecture 'sm_99' (there are: sm_80, sm_86, sm_87, sm_88, sm_89, sm_90, sm_100, sm_103, sm_110, sm_120, sm_121)
status 2
m6c: unknown GPU architecture 'sm_80a' (there are: sm_80, sm_86, sm_87, sm_88, sm_89, sm_90, sm_100, sm_103, sm_110, sm_120, sm_121)
status 2
m6c: unknown target 'nonsense' (there are: cpu, cuda, null, and GPUs as sm_80)
status 2
error: M6C_NVRTC: /none/libnvrtc.so: cannot open shared object file: No such file or directory
status 3
plan.txt
plan_0.cu
target sm_80
m6c: the plan is for sm_80: compile the model again with --target cpu
status 1
