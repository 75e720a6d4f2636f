/* A library that answers as NVML does on a host of eight H100 on one NVSwitch, so that the real Python binding
 * has something to load. GPU 5 has MIG mode on; GPU 7 does not tell its power limit. */
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, GPUS = 8, LINKS = 18 };

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

typedef struct {
    unsigned long long total, free, used;
} Memory;

static int handles[GPUS] = {0, 1, 2, 3, 4, 5, 6, 7};

int nvmlInitWithFlags(unsigned flags) { (void)flags; return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = GPUS;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, int **device) {
    if (index >= GPUS) return INVALID_ARGUMENT;
    *device = &handles[index];
    return SUCCESS;
}

static int fill(PciInfo *pci, unsigned bus) {
    memset(pci, 0, sizeof *pci);
    pci->bus = bus;
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "0000:%02X:00.0", bus);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", bus);
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(int *device, PciInfo *pci) { return fill(pci, 0x10 + 0x10 * (unsigned)*device); }

int nvmlDeviceGetName(int *device, char *name, unsigned length) {
    (void)device;
    snprintf(name, length, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(int *device, Memory *memory) {
    (void)device;
    memory->total = 85520809984ULL;
    memory->free = memory->total;
    memory->used = 0;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(int *device, unsigned *limit_mw) {
    if (*device == 7) return NOT_SUPPORTED;
    *limit_mw = 700000;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkState(int *device, unsigned link, unsigned *active) {
    (void)device;
    if (link >= LINKS) return INVALID_ARGUMENT;
    *active = 1;
    return SUCCESS;
}

/* Every link ends at the NVSwitch. */
int nvmlDeviceGetNvLinkRemotePciInfo_v2(int *device, unsigned link, PciInfo *pci) {
    (void)device;
    (void)link;
    return fill(pci, 0xc8);
}

int nvmlDeviceGetMigMode(int *device, unsigned *current, unsigned *pending) {
    *current = *pending = *device == 5;
    return SUCCESS;
}
