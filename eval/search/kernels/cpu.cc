// What the CPU and the operating system let this process run, asked for at run time.

#include <cstdint>
#include <cstring>

#include "form.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace vargfacenet {
namespace {

#if defined(__x86_64__)
struct Registers {
  uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers told{};
  __get_cpuid_count(leaf, subleaf, &told.eax, &told.ebx, &told.ecx, &told.edx);
  return told;
}

// Bits of the register states that the operating system keeps for a process.
uint64_t kept_states() {
  const bool can_be_asked = cpuid(1, 0).ecx >> 27 & 1;
  if (!can_be_asked) return 0;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Tiles are for processes that have asked for them; to others a tile instruction is fatal.
bool tiles_are_granted() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

constexpr uint64_t kAvx = 0x6, kAvx512 = 0xe6, kTiles = 0x60000;  // states

// Where cpuid tells a feature, by the name that Linux gives it.
struct Feature {
  const char* name;
  uint32_t leaf, subleaf;
  uint32_t Registers::* word;
  int bit;
  uint64_t states;
};

constexpr Feature kFeatures[] = {
    {"fma", 1, 0, &Registers::ecx, 12, kAvx},
    {"avx2", 7, 0, &Registers::ebx, 5, kAvx},
    {"avx_vnni", 7, 1, &Registers::eax, 4, kAvx},
    {"avx512f", 7, 0, &Registers::ebx, 16, kAvx512},
    {"avx512dq", 7, 0, &Registers::ebx, 17, kAvx512},
    {"avx512bw", 7, 0, &Registers::ebx, 30, kAvx512},
    {"avx512vl", 7, 0, &Registers::ebx, 31, kAvx512},
    {"avx512_vnni", 7, 0, &Registers::ecx, 11, kAvx512},
    {"amx_tile", 7, 0, &Registers::edx, 24, kTiles},
    {"amx_bf16", 7, 0, &Registers::edx, 22, kTiles},
};
#endif

}  // namespace

extern "C" {

// 1 if this process can use a feature of the CPU, named as in /proc/cpuinfo; 0 for other names.
int VARGFACENET_EXPORT(cpu_has)(const char* name) {
#if defined(__x86_64__)
  for (const Feature& feature : kFeatures) {
    if (std::strcmp(feature.name, name) != 0) continue;
    const bool there = cpuid(feature.leaf, feature.subleaf).*feature.word >> feature.bit & 1;
    if (!there || (kept_states() & feature.states) != feature.states) return 0;
    return feature.states != kTiles || tiles_are_granted();
  }
#endif
  return 0;
}

}  // extern "C"

}  // namespace vargfacenet
