// NVIDIA's driver and CUDA's runtime library as far as TVM's CUDA runtime calls them, without a GPU.
//
// Built twice: as libcuda.so.1 (DRIVER) and as libcudart.so.13, which stand in for the real ones by
// LD_LIBRARY_PATH. Kernels are those of `emulator.py`: a fat binary's first bytes, then a shared
// library. As strict as the real thing where a program may go wrong unseen:
//   - the memory of the device can be touched by copies and kernels only, and holds rubbish at first
//   - address space is reserved as real drivers do, so a limit on it (RLIMIT_AS) is an error
//   - a process that was forked after its parent had used the driver gets an error
//   - modules and kernels want a context, which cudaSetDevice or an allocation gives to a thread
//   - a launch must keep the limits of a block, of a grid, and of __launch_bounds__
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

extern "C" {
int emulated_use();  // 0, or a CUresult; gives the calling thread a context
bool emulated_has_context();
void* emulated_allocate(size_t size);
bool emulated_free(void* pointer);
bool emulated_owns(const void* pointer, size_t size);
void emulated_open();
void emulated_close();
}

#ifdef DRIVER
static const size_t RESERVED = size_t{1} << 38;
static std::recursive_mutex memory_lock;
static std::map<char*, size_t> allocated;
static char* arena;
static size_t touched;
static pid_t owner;
static thread_local bool has_context;

CUresult cuInit(unsigned) {
  std::lock_guard<std::recursive_mutex> lock(memory_lock);
  if (arena) return owner == getpid() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
  void* got = mmap(nullptr, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  arena = static_cast<char*>(got);
  owner = getpid();
  return CUDA_SUCCESS;
}
int emulated_use() {
  CUresult code = cuInit(0);
  if (code == CUDA_SUCCESS) has_context = true;
  return code;
}
bool emulated_has_context() { return has_context && owner == getpid(); }
void* emulated_allocate(size_t size) {
  std::lock_guard<std::recursive_mutex> lock(memory_lock);
  size = (size + 255) / 256 * 256 + 256;  // a gap behind each
  char* at = arena;
  for (auto& [start, length] : allocated) {
    if (static_cast<size_t>(start - at) >= size) break;
    at = start + length;
  }
  if (at + size > arena + RESERVED) return nullptr;
  allocated[at] = size;
  if (at + size > arena + touched) touched = (at + size - arena + 4095) / 4096 * 4096;
  emulated_open();
  std::memset(at, 0xA5, size);
  emulated_close();
  return at;
}
bool emulated_free(void* pointer) {
  std::lock_guard<std::recursive_mutex> lock(memory_lock);
  return pointer == nullptr || allocated.erase(static_cast<char*>(pointer)) == 1;
}
bool emulated_owns(const void* pointer, size_t size) {
  std::lock_guard<std::recursive_mutex> lock(memory_lock);
  char* at = static_cast<char*>(const_cast<void*>(pointer));
  auto next = allocated.upper_bound(at);
  if (next == allocated.begin()) return false;
  --next;
  return at + size <= next->first + next->second;
}
void emulated_open() {
  memory_lock.lock();
  mprotect(arena, touched, PROT_READ | PROT_WRITE);
}
void emulated_close() {
  mprotect(arena, touched, PROT_NONE);
  memory_lock.unlock();
}

CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int index) { return *device = index, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  return std::snprintf(name, size, "emulated"), CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : 0;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult code, const char** name) {
  static char texts[1000][48];
  std::snprintf(texts[code], sizeof(texts[code]), "error %d of the emulated driver", code);
  return *name = texts[code], CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char** text) { return cuGetErrorName(code, text); }

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  static const unsigned char magic[4] = {0x50, 0xed, 0x55, 0xba};
  if (!emulated_has_context()) return CUDA_ERROR_INVALID_CONTEXT;
  const char* bytes = static_cast<const char*>(image);
  if (std::memcmp(bytes, magic, 4)) return CUDA_ERROR_INVALID_IMAGE;
  uint64_t size;
  std::memcpy(&size, bytes + 8, 8);
  int file = memfd_create("kernels", 0);
  if (write(file, bytes + 16, size) != static_cast<ssize_t>(size)) return CUDA_ERROR_OUT_OF_MEMORY;
  void* library = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) std::fprintf(stderr, "emulated driver: %s\n", dlerror());
  // the descriptor stays open: the loader knows libraries by their names
  *module = reinterpret_cast<CUmodule>(library);
  return library == nullptr ? CUDA_ERROR_INVALID_IMAGE : CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) {
  return dlclose(reinterpret_cast<void*>(module)), CUDA_SUCCESS;
}
struct Kernel {
  void (*launch)(void** arguments, const unsigned* extents);
  int threads;  // __launch_bounds__, 0 without
  int arguments;
};
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  void* found = dlsym(reinterpret_cast<void*>(module), (std::string("kernel_") + name).c_str());
  *function = reinterpret_cast<CUfunction>(found);
  return found == nullptr ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  return CUDA_ERROR_NOT_SUPPORTED;  // no kernel here asks for more shared memory
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* to, CUfunction function, void** arguments, void**) {
  if (!emulated_has_context()) return CUDA_ERROR_INVALID_CONTEXT;
  const Kernel& kernel = *reinterpret_cast<const Kernel*>(function);
  const unsigned extents[6] = {to->gridDimX,  to->gridDimY,  to->gridDimZ,
                               to->blockDimX, to->blockDimY, to->blockDimZ};
  const unsigned limits[6] = {2147483647, 65535, 65535, 1024, 1024, 64};
  unsigned threads = extents[3] * extents[4] * extents[5];
  for (int i = 0; i < 6; ++i)
    if (extents[i] == 0 || extents[i] > limits[i]) return CUDA_ERROR_INVALID_VALUE;
  if (threads > 1024 || (kernel.threads && threads > static_cast<unsigned>(kernel.threads)))
    return CUDA_ERROR_INVALID_VALUE;
  if (to->sharedMemBytes || to->numAttrs) return CUDA_ERROR_NOT_SUPPORTED;
  for (int i = 0; i < kernel.arguments; ++i)
    if (!emulated_owns(*static_cast<void**>(arguments[i]), 1)) return CUDA_ERROR_ILLEGAL_ADDRESS;
  emulated_open();
  kernel.launch(arguments, extents);
  emulated_close();
  return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_ERROR_NOT_SUPPORTED;
}

#else  // the runtime library

static thread_local cudaError_t last;
static cudaError_t told(cudaError_t code) { return code == cudaSuccess ? code : last = code; }
static cudaError_t use() { return told(static_cast<cudaError_t>(emulated_use())); }

extern "C" {
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, use(); }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? use() : told(cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 0, use(); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int) { return told(cudaErrorNotSupported); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return *free = *total = size_t{1} << 36, use();
}
cudaError_t cudaMalloc(void** pointer, size_t size) {
  if (cudaError_t code = use()) return code;
  *pointer = emulated_allocate(size);
  return *pointer ? cudaSuccess : told(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* pointer) {
  return emulated_free(pointer) ? cudaSuccess : told(cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void**, size_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaFreeHost(void*) { return told(cudaErrorNotSupported); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t) {
  if (cudaError_t code = use()) return code;
  bool into = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  bool out = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (into != emulated_owns(to, size) || out != emulated_owns(from, size))
    return told(cudaErrorInvalidValue);
  emulated_open();
  std::memcpy(to, from, size);
  emulated_close();
  return cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void*, int, const void*, int, size_t, cudaStream_t) {
  return told(cudaErrorNotSupported);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return use(); }
cudaError_t cudaStreamCreate(cudaStream_t*) { return told(cudaErrorNotSupported); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) {
  return told(cudaErrorNotSupported);
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return told(cudaErrorNotSupported);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return told(cudaErrorNotSupported);
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return told(cudaErrorNotSupported); }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long) {
  return told(cudaErrorNotSupported);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaEventCreate(cudaEvent_t*) { return told(cudaErrorNotSupported); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return told(cudaErrorNotSupported); }
cudaError_t cudaEventElapsedTime(float*, cudaEvent_t, cudaEvent_t) {
  return told(cudaErrorNotSupported);
}
cudaError_t cudaGetLastError() {
  cudaError_t code = last;
  return last = cudaSuccess, code;
}
cudaError_t cudaPeekAtLastError() { return last; }
const char* cudaGetErrorString(cudaError_t code) {
  const char* text;
  return cuGetErrorName(static_cast<CUresult>(code), &text), text;
}
const char* cudaGetErrorName(cudaError_t code) { return cudaGetErrorString(code); }
}
#endif
