/* Runs instructions that the machine at hand does not have, for tests: Intel AMX tiles and the
 * VEX-encoded dot products of AVX-VNNI.
 *
 * A handler of SIGILL decodes the instruction, executes it on the thread's own tiles or on the
 * saved vector registers, and steps over it. As strict as the hardware: a tile instruction on a
 * thread that has not loaded a configuration, tiles that do not fit each other, a configuration
 * with reserved bits all end in the SIGILL that a real CPU would raise. What is not known here goes
 * to the handler that was there before.
 *
 * Semantics and encodings: Intel SDM volume 2 (LDTILECFG ... VPDPBUSD), exception classes AMX-E1
 * to AMX-E6. Linux on x86-64 only.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { LOADCFG, STORECFG, RELEASE, ZERO, LOAD, STORE, DOT, DOT_BF16, VECTOR_DOT, KINDS };

typedef struct {
  int configured;
  uint8_t config[64];
  uint8_t data[8][16][64];
} Tiles;

typedef struct {
  int length, pp, opcode, wide;
  int mod, reg, rm, vvvv;
  int has_index;
  uint64_t address; /* without the index */
  uint64_t index;   /* scaled; the stride of tile loads and stores */
} Instruction;

/* Only a pointer, so that it fits the space that a late-loaded library has for such variables. */
static __thread Tiles* tiles __attribute__((tls_model("initial-exec")));
static struct sigaction previous;
static long counts[KINDS];
static unsigned ymm_high_offset, zmm_high_offset;

static const int GREGS[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                              REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                              REG_R12, REG_R13, REG_R14, REG_R15};

static int decode(const uint8_t* p, const greg_t* regs, Instruction* out) {
  const uint8_t* start = p;
  memset(out, 0, sizeof *out);
  if (*p++ != 0xC4) return 0; /* the three-byte VEX prefix: all of map 0F38 needs it */
  int r = !(*p & 0x80), x = !(*p & 0x40), b = !(*p & 0x20), map = *p & 0x1F;
  p++;
  int w = *p >> 7;
  out->vvvv = ~(*p >> 3) & 15, out->wide = (*p >> 2) & 1, out->pp = *p & 3;
  p++;
  if (map != 2 || w) return 0;
  out->opcode = *p++;
  out->mod = *p >> 6, out->reg = ((*p >> 3) & 7) | r << 3, out->rm = (*p & 7) | b << 3;
  int low = *p++ & 7;
  if (out->mod == 3) return out->length = (int)(p - start), 1;
  int has_base = 1, base = out->rm, rip = 0;
  if (low == 4) {
    int scale = *p >> 6, index = ((*p >> 3) & 7) | x << 3;
    base = (*p & 7) | b << 3;
    if ((*p & 7) == 5 && out->mod == 0) has_base = 0;
    p++;
    out->has_index = index != 4;
    if (out->has_index) out->index = (uint64_t)regs[GREGS[index]] << scale;
  } else if (low == 5 && out->mod == 0) {
    has_base = 0, rip = 1;
  }
  int32_t displacement = 0;
  if (out->mod == 1) {
    displacement = (int8_t)*p++;
  } else if (out->mod == 2 || !has_base) {
    memcpy(&displacement, p, 4);
    p += 4;
  }
  out->length = (int)(p - start);
  out->address = (uint64_t)(int64_t)displacement;
  if (has_base) out->address += (uint64_t)regs[GREGS[base]];
  if (rip) out->address += (uint64_t)(uintptr_t)p;
  return 1;
}

static int rows_of(int t) { return tiles->config[48 + t]; }
static int bytes_of(int t) { return tiles->config[16 + 2 * t] | tiles->config[17 + 2 * t] << 8; }
static int valid(int t) { return t < 8 && rows_of(t) && bytes_of(t); }

static int load_config(const uint8_t* from) {
  if (from[0] == 0) return memset(tiles, 0, sizeof *tiles), 1;
  if (from[0] != 1 || from[1] != 0) return 0; /* palette; no restarted loads here */
  for (int i = 2; i < 64; i++) {
    int tile = i < 48 ? (i - 16) / 2 : i - 48, used = i >= 16 && tile < 8;
    if (!used && from[i]) return 0;
  }
  for (int t = 0; t < 8; t++) {
    int bytes = from[16 + 2 * t] | from[17 + 2 * t] << 8, rows = from[48 + t];
    if (bytes > 64 || rows > 16 || !bytes != !rows) return 0;
  }
  memset(tiles, 0, sizeof *tiles);
  memcpy(tiles->config, from, 64);
  tiles->configured = 1;
  return 1;
}

static int config_instruction(const Instruction* i) {
  uint8_t* memory = (uint8_t*)(uintptr_t)(i->address + i->index);
  if (i->pp == 0 && i->mod != 3 && i->reg == 0) {
    if (!load_config(memory)) return 0;
    __atomic_add_fetch(&counts[LOADCFG], 1, __ATOMIC_RELAXED);
    return 1;
  }
  if (i->pp == 1 && i->mod != 3 && i->reg == 0) {
    memcpy(memory, tiles->config, 64);
    __atomic_add_fetch(&counts[STORECFG], 1, __ATOMIC_RELAXED);
    return 1;
  }
  if (i->pp == 0 && i->mod == 3 && i->reg == 0 && i->rm == 0) {
    memset(tiles, 0, sizeof *tiles);
    __atomic_add_fetch(&counts[RELEASE], 1, __ATOMIC_RELAXED);
    return 1;
  }
  if (i->pp == 3 && i->mod == 3 && i->rm == 0 && tiles->configured && valid(i->reg)) {
    memset(tiles->data[i->reg], 0, sizeof tiles->data[0]);
    __atomic_add_fetch(&counts[ZERO], 1, __ATOMIC_RELAXED);
    return 1;
  }
  return 0;
}

static int move_instruction(const Instruction* i) {
  if (i->mod == 3 || (i->rm & 7) != 4 || i->pp == 0) return 0;
  if (!tiles->configured || !valid(i->reg)) return 0;
  int rows = rows_of(i->reg), bytes = bytes_of(i->reg);
  if (i->pp != 2) memset(tiles->data[i->reg], 0, sizeof tiles->data[0]);
  for (int r = 0; r < rows; r++) {
    void* memory = (void*)(uintptr_t)(i->address + (uint64_t)r * i->index);
    if (i->pp == 2)
      memcpy(memory, tiles->data[i->reg][r], bytes);
    else
      memcpy(tiles->data[i->reg][r], memory, bytes);
  }
  __atomic_add_fetch(&counts[i->pp == 2 ? STORE : LOAD], 1, __ATOMIC_RELAXED);
  return 1;
}

static float bf16(const uint8_t* from) {
  uint32_t bits = (uint32_t)(from[0] | from[1] << 8) << 16;
  if (!(bits & 0x7F800000)) bits &= 0x80000000; /* denormals are zero */
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static int dot_instruction(const Instruction* i, int floats) {
  int c = i->reg, a = i->rm, b = i->vvvv;
  if (i->mod != 3 || !tiles->configured || !valid(c) || !valid(a) || !valid(b)) return 0;
  if (a == b || a == c || b == c) return 0;
  if (bytes_of(a) % 4 || bytes_of(b) % 4 || bytes_of(c) % 4) return 0;
  if (rows_of(a) != rows_of(c) || bytes_of(b) != bytes_of(c)) return 0;
  if (rows_of(b) != bytes_of(a) / 4 || (floats && i->pp != 2)) return 0;
  int a_signed = i->pp >= 2, b_signed = i->pp == 1 || i->pp == 3;
  for (int m = 0; m < rows_of(c); m++)
    for (int n = 0; n < bytes_of(c) / 4; n++) {
      const uint8_t* left = tiles->data[a][m];
      uint32_t sum = 0;
      float total = 0;
      for (int k = 0; k < bytes_of(a) / 4; k++) {
        const uint8_t* right = tiles->data[b][k] + 4 * n;
        for (int d = 0; d < 4 && !floats; d++) {
          int x = a_signed ? (int8_t)left[4 * k + d] : left[4 * k + d];
          int y = b_signed ? (int8_t)right[d] : right[d];
          sum += (uint32_t)(x * y);
        }
        for (int d = 0; d < 4 && floats; d += 2) total += bf16(left + 4 * k + d) * bf16(right + d);
      }
      if (floats) {
        float before;
        memcpy(&before, tiles->data[c][m] + 4 * n, 4);
        total += before;
        memcpy(tiles->data[c][m] + 4 * n, &total, 4);
      } else {
        uint32_t before;
        memcpy(&before, tiles->data[c][m] + 4 * n, 4);
        sum += before;
        memcpy(tiles->data[c][m] + 4 * n, &sum, 4);
      }
    }
  memset(tiles->data[c][rows_of(c)], 0, (size_t)(16 - rows_of(c)) * 64);
  __atomic_add_fetch(&counts[floats ? DOT_BF16 : DOT], 1, __ATOMIC_RELAXED);
  return 1;
}

/* One half of a vector register in the frame that the kernel saved; NULL where it is not there. */
static uint8_t* half(uint8_t* frame, int reg, int high) {
  return high ? frame + ymm_high_offset + 16 * reg : frame + 160 + 16 * reg;
}

static int64_t saturated(int64_t value) {
  return value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : value;
}

/* vpdpbusd, vpdpbusds, vpdpwssd, vpdpwssds: opcodes 50 to 53. */
static int vector_dot(const Instruction* i, uint8_t* frame) {
  uint32_t magic;
  memcpy(&magic, frame + 464, 4);
  if (i->pp != 1 || magic != 0x46505853 || !ymm_high_offset) return 0;
  uint64_t in_use;
  memcpy(&in_use, frame + 512, 8); /* XSTATE_BV: a part whose bit is clear counts as zero */
  if (!(in_use & 2)) memset(frame + 160, 0, 256);
  if (!(in_use & 4)) memset(frame + ymm_high_offset, 0, 256);
  in_use |= 6;
  memcpy(frame + 512, &in_use, 8);
  for (int h = 0; h <= i->wide; h++) {
    const uint8_t* left = half(frame, i->vvvv, h);
    const uint8_t* memory = (const uint8_t*)(uintptr_t)(i->address + i->index) + 16 * h;
    const uint8_t* right = i->mod == 3 ? half(frame, i->rm, h) : memory;
    uint8_t* out = half(frame, i->reg, h);
    for (int lane = 0; lane < 4; lane++) {
      int32_t before;
      memcpy(&before, out + 4 * lane, 4);
      int64_t sum = before;
      if (i->opcode < 0x52) {
        for (int d = 0; d < 4; d++) sum += left[4 * lane + d] * (int8_t)right[4 * lane + d];
      } else {
        int16_t l[2], r[2];
        memcpy(l, left + 4 * lane, 4), memcpy(r, right + 4 * lane, 4);
        sum += (int64_t)l[0] * r[0] + (int64_t)l[1] * r[1];
      }
      int32_t made = (int32_t)(i->opcode & 1 ? saturated(sum) : sum);
      memcpy(out + 4 * lane, &made, 4);
    }
  }
  /* VEX instructions clear what lies above their own width */
  if (!i->wide) memset(half(frame, i->reg, 1), 0, 16);
  if (zmm_high_offset && (in_use & 64)) memset(frame + zmm_high_offset + 32 * i->reg, 0, 32);
  __atomic_add_fetch(&counts[VECTOR_DOT], 1, __ATOMIC_RELAXED);
  return 1;
}

static int execute(const Instruction* i, ucontext_t* context) {
  if (i->opcode >= 0x50 && i->opcode <= 0x53)
    return vector_dot(i, (uint8_t*)context->uc_mcontext.fpregs);
  if (i->wide) return 0;
  if (!tiles) {
    void* memory = mmap(NULL, sizeof *tiles, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 0;
    tiles = memory;
  }
  if (i->opcode == 0x49) return config_instruction(i);
  if (i->opcode == 0x4B) return move_instruction(i);
  if (i->opcode == 0x5E) return dot_instruction(i, 0);
  if (i->opcode == 0x5C) return dot_instruction(i, 1);
  return 0;
}

static void on_illegal(int number, siginfo_t* info, void* data) {
  ucontext_t* context = data;
  greg_t* regs = context->uc_mcontext.gregs;
  Instruction instruction;
  if (decode((const uint8_t*)(uintptr_t)regs[REG_RIP], regs, &instruction) &&
      execute(&instruction, context)) {
    regs[REG_RIP] += instruction.length;
    return;
  }
  if (previous.sa_flags & SA_SIGINFO)
    previous.sa_sigaction(number, info, data);
  else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
    previous.sa_handler(number);
  else
    sigaction(SIGILL, &previous, NULL); /* the instruction runs again, and ends the process */
}

/* Install the handler; 0, or an errno. */
int emulator_install(void) {
  unsigned a, b, c, d;
  if (__get_cpuid_count(0xD, 2, &a, &b, &c, &d) && a) ymm_high_offset = b;
  if (__get_cpuid_count(0xD, 6, &a, &b, &c, &d) && a) zmm_high_offset = b;
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_illegal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  return sigaction(SIGILL, &action, &previous) ? errno : 0;
}

/* From now on arch_prctl(ARCH_REQ_XCOMP_PERM) answers `answer` (0 grants, else that errno) in all
 * threads of this process and its children, for good. 0, or an errno. */
int emulator_answer_permission(int answer) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x1023, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)answer),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program))
    return errno ? errno : EPERM;
  return 0;
}

/* How many instructions of a kind were emulated so far, over all threads. */
long emulator_count(int kind) { return __atomic_load_n(&counts[kind], __ATOMIC_RELAXED); }

/* Whether the calling thread holds a tile configuration. */
int emulator_is_configured(void) { return tiles && tiles->configured; }
