/* What runtime/cuda_api.h and cublaslt.h declare by themselves, next to NVIDIA's own headers; and
 * what the real cuBLASLt says to our descriptions, which it makes without a GPU. Built and run by
 * check_cuda_headers.py where there is a toolkit. */
#include "runtime/cublaslt.h"

#include <cublasLt.h>
#include <cuda.h>
#include <stdlib.h>

#define SAME(ours, theirs) _Static_assert((long)(ours) == (long)(theirs), #ours " is not " #theirs)

SAME(CUDA_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME(CUDA_NO_DEVICE, CUDA_ERROR_NO_DEVICE);
SAME(CUDA_INVALID_IMAGE, CUDA_ERROR_INVALID_IMAGE);
SAME(CUDA_NO_BINARY, CUDA_ERROR_NO_BINARY_FOR_GPU);
SAME(CUDA_UNSUPPORTED_PTX, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
SAME(CUDA_FILE_NOT_FOUND, CUDA_ERROR_FILE_NOT_FOUND);
SAME(CUDA_NOT_FOUND, CUDA_ERROR_NOT_FOUND);
SAME(CUDA_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(CUDA_EVENT_BLOCKING_SYNC, CU_EVENT_BLOCKING_SYNC);
SAME(CUDA_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING);
SAME(CUDA_CAPTURE_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED);
SAME(CUDA_FUNCTION_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME(CUDA_DEVICE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(CUDA_DEVICE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(CUDA_DEVICE_SHARED, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
SAME(sizeof(CudaAddress), sizeof(CUdeviceptr));

SAME(LT_F32, CUDA_R_32F);
SAME(LT_F64, CUDA_R_64F);
SAME(LT_F16, CUDA_R_16F);
SAME(LT_BF16, CUDA_R_16BF);
SAME(LT_COMPUTE_F32, CUBLAS_COMPUTE_32F);
SAME(LT_COMPUTE_F64, CUBLAS_COMPUTE_64F);
SAME(LT_TRANSPOSE_A, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(LT_TRANSPOSE_B, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(LT_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(LT_BIAS, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(LT_AUX, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
SAME(LT_AUX_LD, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
SAME(LT_AUX_STRIDE, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE);
SAME(LT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT);
SAME(LT_EPILOGUE_GELU + LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(LT_EPILOGUE_GELU + LT_EPILOGUE_AUX, CUBLASLT_EPILOGUE_GELU_AUX);
SAME(LT_EPILOGUE_GELU + LT_EPILOGUE_AUX + LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
SAME(LT_EPILOGUE_GELU_GRAD + LT_EPILOGUE_AUX, CUBLASLT_EPILOGUE_DGELU);
SAME(LT_EPILOGUE_GELU_GRAD + LT_EPILOGUE_AUX + LT_EPILOGUE_SUMS, CUBLASLT_EPILOGUE_DGELU_BGRAD);
SAME(LT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(LT_BATCH_STRIDE, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(LT_MAX_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(LT_ALIGN_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(LT_ALIGN_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(LT_ALIGN_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(LT_ALIGN_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(CUBLAS_OP_N, 0);
SAME(CUBLAS_OP_T, 1);
SAME(sizeof(LtAlgo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(LtHeuristic), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(LtHeuristic, workspace), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(LtHeuristic, status), offsetof(cublasLtMatmulHeuristicResult_t, state));

static Status describe_epilogue(const CublasLt *lt, LtProduct product) {
    const uint32_t kind = LT_EPILOGUE_GELU + LT_EPILOGUE_AUX + LT_EPILOGUE_BIAS;
    const int64_t rows = 64, stride = 640;
    void *const place = &(int){0};
    LT_TRY(lt, cublasLtMatmulDescSetAttribute, product, LT_EPILOGUE, &kind, sizeof kind);
    LT_TRY(lt, cublasLtMatmulDescSetAttribute, product, LT_BIAS, &place, sizeof place);
    LT_TRY(lt, cublasLtMatmulDescSetAttribute, product, LT_AUX, &place, sizeof place);
    LT_TRY(lt, cublasLtMatmulDescSetAttribute, product, LT_AUX_LD, &rows, sizeof rows);
    LT_TRY(lt, cublasLtMatmulDescSetAttribute, product, LT_AUX_STRIDE, &stride, sizeof stride);
    return NULL;
}

static Status describe(const CublasLt *lt) {
    LtProduct product;
    LtLayout layout;
    LtPreference preference;
    const int32_t one = 1, batch = 12;
    const int64_t stride = 30;
    const uint64_t bytes = 32 << 20;
    const uint32_t align = 16;
    LT_TRY(lt, cublasLtMatmulDescCreate, &product, LT_COMPUTE_F32, LT_F32);
    LT_TRY(lt, cublasLtMatmulDescSetAttribute, product, LT_TRANSPOSE_A, &one, sizeof one);
    LT_TRY(lt, cublasLtMatmulDescSetAttribute, product, LT_TRANSPOSE_B, &one, sizeof one);
    TRY(describe_epilogue(lt, product));
    LT_TRY(lt, cublasLtMatmulDescDestroy, product);
    LT_TRY(lt, cublasLtMatrixLayoutCreate, &layout, LT_BF16, 5, 6, 7);
    LT_TRY(lt, cublasLtMatrixLayoutSetAttribute, layout, LT_BATCH_COUNT, &batch, sizeof batch);
    LT_TRY(lt, cublasLtMatrixLayoutSetAttribute, layout, LT_BATCH_STRIDE, &stride, sizeof stride);
    LT_TRY(lt, cublasLtMatrixLayoutDestroy, layout);
    LT_TRY(lt, cublasLtMatmulPreferenceCreate, &preference);
    LT_TRY(lt, cublasLtMatmulPreferenceSetAttribute, preference, LT_MAX_WORKSPACE, &bytes,
           sizeof bytes);
    for (int i = LT_ALIGN_A; i <= LT_ALIGN_D; i++)
        LT_TRY(lt, cublasLtMatmulPreferenceSetAttribute, preference, i, &align, sizeof align);
    LT_TRY(lt, cublasLtMatmulPreferenceDestroy, preference);
    return NULL;
}

int main(void) {
    CublasLt lt;
    Status s = cublaslt_open(&lt);
    if (!s) s = describe(&lt);
    if (s) fprintf(stderr, "%s\n", s->text);
    return s != NULL;
}
