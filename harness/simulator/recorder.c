/* The CUDA runtime as a launcher sees it, reduced to a recorder: a launch is handed to `recorder_sink`.

   A launcher leaves these symbols undefined, under names that recorder.py changes so that they meet these and
   never the DSL's runtime library: the first character becomes an r. rcudaX and rcuX have the signatures of
   the CUDA functions cudaX and cuX; handles are what this file makes of them. What no launcher asks for today
   is refused with cudaErrorNotSupported rather than answered with a guess. */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_SUPPORTED = 801 };
enum { DEVICE_MAX_SMEM_OPTIN = 97, KERNEL_STATIC_SMEM = 1 };
enum { MAX_DYNAMIC_SMEM = 8, NON_PORTABLE_CLUSTER = 14 };
enum { MAX_SMEM_BYTES = 227 * 1024 }; /* of compute capabilities 9.0 and 10.x */

/* (kernel name, cudaLaunchConfig_t, pointers to the parameters) -> cudaError_t */
typedef int (*sink_t)(const char *, const void *, void **);
sink_t recorder_sink;

int rcudaGetDevice(int *device) { *device = 0; return SUCCESS; }
int rcudaSetDevice(int device) { return device == 0 ? SUCCESS : INVALID_VALUE; }

int rcudaDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute != DEVICE_MAX_SMEM_OPTIN || device != 0) return NOT_SUPPORTED;
    *value = MAX_SMEM_BYTES;
    return SUCCESS;
}

/* A library's handle is its image, a kernel's handle its name. The name lies on the caller's stack, so it is
   copied, and the copy lives as long as the handle: as long as the process. */
int rcudaLibraryLoadData(void **library, const void *image, void *jit_options, void **jit_values,
                         unsigned jit_count, void *options, void **values, unsigned count) {
    if (jit_count || count) return NOT_SUPPORTED;
    *library = (void *)image;
    return SUCCESS;
}

int rcudaLibraryGetKernel(void **kernel, void *library, const char *name) {
    *kernel = strdup(name);
    return *kernel ? SUCCESS : INVALID_VALUE;
}

/* Only the opt-in limit is derived from a kernel's static shared memory; the recorder does not know it. */
int rcuKernelGetAttribute(int *value, int attribute, void *kernel, int device) {
    if (attribute != KERNEL_STATIC_SMEM) return NOT_SUPPORTED;
    *value = 0;
    return SUCCESS;
}

int rcudaFuncSetAttribute(const void *kernel, int attribute, int value) {
    return attribute == MAX_DYNAMIC_SMEM || attribute == NON_PORTABLE_CLUSTER ? SUCCESS : NOT_SUPPORTED;
}

int rcudaKernelSetAttributeForDevice(void *kernel, int attribute, int value, int device) {
    return rcudaFuncSetAttribute(kernel, attribute, value);
}

int rcudaLaunchKernelEx(const void *config, const void *kernel, void **params) {
    return recorder_sink ? recorder_sink(kernel, config, params) : NOT_SUPPORTED;
}

/* The DSL's own two functions: load a launcher's library into each device (here one) the first time. */
int ruda_dialect_init_library_once(void **library, int (*init)(void **), int (*load)(void **, int),
                                   void (*set_error)(const char *kind, const char *message)) {
    void *loaded = NULL;
    if (*library) return SUCCESS;
    int error = init(&loaded);
    if (!error && load) error = load(&loaded, 0);
    if (error) {
        char message[80];
        snprintf(message, sizeof message, "the recorder refused to load the kernels: CUDA error %d", error);
        set_error("RuntimeError", message);
        return -1;
    }
    *library = loaded;
    return SUCCESS;
}

void ruda_dialect_unload_library_once(void **library) { *library = NULL; }

void ruteDSLRT_TVMFFISetRaisedCudaError(void (*set_parts)(const char *, const char **, int32_t), int error) {
    char message[64];
    const char *parts[] = {message};
    snprintf(message, sizeof message, "the recorder refused the launch: CUDA error %d", error);
    set_parts("RuntimeError", parts, 1);
}
