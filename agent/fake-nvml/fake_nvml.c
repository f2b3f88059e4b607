/* A libnvidia-ml.so.1 for tests: the symbols that Trainyard calls, answered out of a JSON file.
 *
 * The file is named by TRAINYARD_FAKE_NVML, else it is this library's own path + ".json" (so that tests of
 * one process each have their own: copy the library). It is read again at every call: write it beside and
 * rename it. README.md beside this file lists its keys. Loaded by the same loader as the real library;
 * nothing here allocates for longer than one call, and nothing is linked but libc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int ret_t;
enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15
};
enum { MAX_GPUS = 16, MAX_MIG = 8 };

/* ---- JSON: a cursor over text, skips what it does not look for ---------------------------------------- */

static const char *blank(const char *p) {
    while (p && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
    return p;
}

/* Past one value, or NULL if it is not one. */
static const char *skip(const char *p) {
    p = blank(p);
    if (!p) return NULL;
    if (*p == '"') {
        for (p++; *p && *p != '"'; p++) if (*p == '\\' && p[1]) p++;
        return *p == '"' ? p + 1 : NULL;
    }
    if (*p == '{' || *p == '[') {
        char close = *p == '{' ? '}' : ']';
        for (p = blank(p + 1); *p && *p != close; ) {
            if (*p == ',' || *p == ':') { p = blank(p + 1); continue; }
            p = blank(skip(p));
            if (!p) return NULL;
        }
        return *p == close ? p + 1 : NULL;
    }
    const char *start = p;
    while (*p && !strchr(",:]} \n\t\r", *p)) p++;
    return p > start ? p : NULL;
}

/* The value of a key of an object, or NULL. */
static const char *member(const char *object, const char *key) {
    const char *p = blank(object);
    if (!p || *p != '{') return NULL;
    size_t length = strlen(key);
    for (p = blank(p + 1); *p && *p != '}'; ) {
        const char *name = p, *end = skip(p);
        if (!end || *name != '"') return NULL;
        p = blank(end);
        if (*p != ':') return NULL;
        p = blank(p + 1);
        if ((size_t)(end - name) == length + 2 && !strncmp(name + 1, key, length)) return p;
        p = blank(skip(p));
        if (!p) return NULL;
        if (*p == ',') p = blank(p + 1);
    }
    return NULL;
}

/* An element of an array, or NULL. */
static const char *element(const char *array, int index) {
    const char *p = blank(array);
    if (!p || *p != '[') return NULL;
    for (p = blank(p + 1); *p && *p != ']'; ) {
        if (index-- == 0) return p;
        p = blank(skip(p));
        if (!p) return NULL;
        if (*p == ',') p = blank(p + 1);
    }
    return NULL;
}

static double number(const char *object, const char *key, double otherwise) {
    const char *p = member(object, key);
    if (!p) return otherwise;
    if (!strncmp(p, "true", 4)) return 1;
    if (!strncmp(p, "false", 5) || !strncmp(p, "null", 4)) return 0;
    return strtod(p, NULL);
}

static void text(const char *object, const char *key, const char *otherwise, char *out, size_t size) {
    const char *p = member(object, key);
    if (!size) return;
    if (!p || *p != '"') {
        snprintf(out, size, "%s", otherwise);
        return;
    }
    size_t n = 0;
    for (p++; *p && *p != '"' && n + 1 < size; p++) out[n++] = *p;
    out[n] = 0;
}

/* ---- the file ------------------------------------------------------------------------------------------ */

static int here; /* its address finds this library's path */

static char *load(void) {
    char path[4096];
    const char *named = getenv("TRAINYARD_FAKE_NVML");
    if (named && *named) {
        snprintf(path, sizeof path, "%s", named);
    } else {
        Dl_info info;
        if (!dladdr(&here, &info) || !info.dli_fname) return NULL;
        snprintf(path, sizeof path, "%s.json", info.dli_fname);
    }
    FILE *file = fopen(path, "re");
    if (!file) return NULL;
    size_t used = 0, room = 64 * 1024;
    char *all = malloc(room + 1);
    while (all) {
        size_t n = fread(all + used, 1, room - used, file);
        used += n;
        if (!n) break;
        if (used == room) {
            char *more = realloc(all, (room *= 2) + 1);
            if (!more) { free(all); all = NULL; break; }
            all = more;
        }
    }
    fclose(file);
    if (all) all[used] = 0;
    return all;
}

static long long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void pause_ms(long ms) {
    struct timespec t = { ms / 1000, (ms % 1000) * 1000000L };
    nanosleep(&t, NULL);
}

/* The file's text, after the pause that it asks for: until hang_ms is over or no longer there. */
static char *scene(void) {
    char *all = load();
    long long began = now_ms();
    while (all && number(all, "hang_ms", 0) > (double)(now_ms() - began)) {
        free(all);
        pause_ms(2);
        all = load();
    }
    return all;
}

/* ---- devices ------------------------------------------------------------------------------------------- */

struct device { int gpu, mig; }; /* mig: -1 for the GPU itself */
static struct device handles[MAX_GPUS][MAX_MIG + 1];
static int initialized; /* counted, as in the real library */

static struct device *handle(int gpu, int mig) {
    struct device *d = &handles[gpu][mig + 1];
    d->gpu = gpu;
    d->mig = mig;
    return d;
}

static int gpus(const char *all) {
    int n = 0;
    while (n < MAX_GPUS && element(member(all, "gpus"), n)) n++;
    return n;
}

/* A device's object in the text, if it answers: `gpu` is its GPU's, `own` that of the MIG device or the GPU. */
struct view { char *all; const char *gpu, *own; ret_t ret; };

static struct view look(const struct device *d) {
    struct view v = { scene(), NULL, NULL, OK };
    if (!v.all || !initialized || number(v.all, "unloaded", 0)) { v.ret = UNINITIALIZED; return v; }
    if (!d) { v.ret = INVALID_ARGUMENT; return v; }
    v.gpu = element(member(v.all, "gpus"), d->gpu);
    v.own = d->mig < 0 ? v.gpu : element(member(v.gpu, "mig"), d->mig);
    if (!v.gpu || !v.own) v.ret = INVALID_ARGUMENT;
    else if (number(v.gpu, "lost", 0)) v.ret = GPU_IS_LOST;
    return v;
}

#define LOOK(device) \
    struct view v = look(device); \
    if (v.ret != OK) { free(v.all); return v.ret; }
#define DONE(result) \
    do { ret_t done_ = (result); free(v.all); return done_; } while (0)

/* One number of the device; a key that is not in the file is not supported. */
static ret_t one(const struct device *d, const char *key, double *value) {
    LOOK(d)
    const char *p = member(v.own, key);
    *value = number(v.own, key, 0);
    DONE(p ? OK : NOT_SUPPORTED);
}

/* ---- NVML ---------------------------------------------------------------------------------------------- */

ret_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    char *all = scene();
    ret_t ret = !all || number(all, "init_fails", 0) || number(all, "unloaded", 0) ? DRIVER_NOT_LOADED : OK;
    free(all);
    if (ret == OK) __atomic_add_fetch(&initialized, 1, __ATOMIC_SEQ_CST);
    return ret;
}

ret_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

ret_t nvmlShutdown(void) {
    __atomic_sub_fetch(&initialized, 1, __ATOMIC_SEQ_CST);
    return OK;
}

ret_t nvmlSystemGetDriverVersion(char *out, unsigned size) {
    char *all = load();
    text(all, "driver_version", "550.54.15", out, size);
    free(all);
    return OK;
}

ret_t nvmlSystemGetCudaDriverVersion_v2(int *out) {
    char *all = load();
    *out = (int)number(all, "cuda_version", 12040);
    free(all);
    return OK;
}

ret_t nvmlDeviceGetCount_v2(unsigned *out) {
    char *all = scene();
    ret_t ret = !all || !initialized || number(all, "unloaded", 0) ? UNINITIALIZED : OK;
    *out = ret == OK ? (unsigned)gpus(all) : 0;
    free(all);
    return ret;
}

ret_t nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **out) {
    if (index >= MAX_GPUS) return INVALID_ARGUMENT;
    *out = handle((int)index, -1);
    LOOK(*out)
    DONE(OK);
}

ret_t nvmlDeviceGetUUID(struct device *d, char *out, unsigned size) {
    LOOK(d)
    text(v.own, "uuid", "", out, size);
    DONE(*out ? OK : NOT_SUPPORTED);
}

ret_t nvmlDeviceGetName(struct device *d, char *out, unsigned size) {
    LOOK(d)
    text(v.own, "name", d->mig < 0 ? "Fake GPU" : "Fake GPU MIG 1g.10gb", out, size);
    DONE(OK);
}

struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

ret_t nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory_v2 *out) {
    LOOK(d)
    out->total = (unsigned long long)number(v.own, "memory", 0);
    out->used = (unsigned long long)number(v.own, "memory_used", 0);
    out->reserved = 0;
    out->free = out->total - out->used;
    DONE(member(v.own, "memory") ? OK : NOT_SUPPORTED);
}

ret_t nvmlDeviceGetUtilizationRates(struct device *d, unsigned out[2]) {
    double percent = 0;
    ret_t ret = one(d, "utilisation", &percent);
    out[0] = (unsigned)percent;
    out[1] = 0;
    return ret;
}

ret_t nvmlDeviceGetPowerUsage(struct device *d, unsigned *out) {
    double watts = 0;
    ret_t ret = one(d, "power", &watts);
    *out = (unsigned)(watts * 1000);
    return ret;
}

ret_t nvmlDeviceGetTemperature(struct device *d, int sensor, unsigned *out) {
    (void)sensor;
    double celsius = 0;
    ret_t ret = one(d, "temperature", &celsius);
    *out = (unsigned)celsius;
    return ret;
}

ret_t nvmlDeviceGetClockInfo(struct device *d, int type, unsigned *out) {
    double megahertz = 0;
    ret_t ret = one(d, type == 2 ? "memory_clock" : "sm_clock", &megahertz);
    *out = (unsigned)megahertz;
    return ret;
}

ret_t nvmlDeviceGetTotalEccErrors(struct device *d, int type, int counter, unsigned long long *out) {
    (void)counter;
    double count = 0;
    ret_t ret = one(d, type == 0 ? "ecc_corrected" : "ecc_uncorrected", &count);
    *out = (unsigned long long)count;
    return ret;
}

ret_t nvmlDeviceGetCurrentClocksThrottleReasons(struct device *d, unsigned long long *out) {
    double bits = 0;
    ret_t ret = one(d, "throttle_reasons", &bits);
    *out = (unsigned long long)bits;
    return ret;
}

ret_t nvmlDeviceGetCudaComputeCapability(struct device *d, int *major, int *minor) {
    LOOK(d)
    char version[16];
    text(v.gpu, "compute_capability", "9.0", version, sizeof version);
    DONE(sscanf(version, "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED);
}

struct pci {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char id[32];
};

ret_t nvmlDeviceGetPciInfo_v3(struct device *d, struct pci *out) {
    LOOK(d)
    memset(out, 0, sizeof *out);
    char otherwise[32];
    snprintf(otherwise, sizeof otherwise, "00000000:%02X:00.0", (unsigned)d->gpu + 1);
    text(v.gpu, "pci_bus_id", otherwise, out->id, sizeof out->id);
    DONE(OK);
}

ret_t nvmlDeviceGetNvLinkState(struct device *d, unsigned link, int *out) {
    double links = 0;
    ret_t ret = one(d, "nvlinks", &links);
    *out = link < (unsigned)links;
    return ret;
}

/* `v2` and `v3` have the same records. */
struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };

ret_t nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *count, struct process *out) {
    LOOK(d)
    const char *all = member(v.own, "processes");
    unsigned room = out ? *count : 0, n = 0;
    for (const char *p; (p = element(all, (int)n)); n++) {
        if (n >= room) continue;
        out[n].pid = (unsigned)number(p, "pid", 0);
        out[n].memory = member(p, "memory") ? (unsigned long long)number(p, "memory", 0) : ~0ULL;
        out[n].gpu_instance = out[n].compute_instance = ~0U;
    }
    *count = n;
    DONE(n > room ? INSUFFICIENT_SIZE : OK);
}

ret_t nvmlDeviceGetMigMode(struct device *d, unsigned *current, unsigned *pending) {
    double on = 0;
    ret_t ret = one(d, "mig_enabled", &on);
    *current = *pending = on != 0;
    return ret;
}

ret_t nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *out) {
    LOOK(d)
    *out = MAX_MIG;
    DONE(OK);
}

ret_t nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned index, struct device **out) {
    LOOK(d)
    if (d->mig >= 0 || index >= MAX_MIG) DONE(INVALID_ARGUMENT);
    if (!element(member(v.gpu, "mig"), (int)index)) DONE(NOT_FOUND);
    *out = handle(d->gpu, (int)index);
    DONE(OK);
}

/* ---- events: an Xid is delivered once, when the file's number differs from the one delivered ----------- */

struct set { int watched[MAX_GPUS]; double seen[MAX_GPUS]; };
struct event { struct device *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
static const unsigned long long XID = 8;

ret_t nvmlDeviceGetSupportedEventTypes(struct device *d, unsigned long long *out) {
    LOOK(d)
    *out = XID | 2;
    DONE(OK);
}

ret_t nvmlEventSetCreate(struct set **out) {
    *out = calloc(1, sizeof **out);
    return *out ? OK : 20;
}

ret_t nvmlEventSetFree(struct set *set) {
    free(set);
    return OK;
}

ret_t nvmlDeviceRegisterEvents(struct device *d, unsigned long long types, struct set *set) {
    LOOK(d)
    if (types & XID) set->watched[d->gpu] = 1;
    DONE(OK);
}

ret_t nvmlEventSetWait_v2(struct set *set, struct event *out, unsigned timeout_ms) {
    long long end = now_ms() + timeout_ms;
    do {
        char *all = scene();
        for (int i = 0; all && i < MAX_GPUS; i++) {
            const char *gpu = set->watched[i] ? element(member(all, "gpus"), i) : NULL;
            double xid = number(gpu, "xid", 0);
            int fresh = xid != 0 && xid != set->seen[i];
            set->seen[i] = xid;
            if (!fresh) continue;
            memset(out, 0, sizeof *out);
            out->device = handle(i, -1);
            out->type = XID;
            out->data = (unsigned long long)xid;
            free(all);
            return OK;
        }
        free(all);
        if (now_ms() < end) pause_ms(5);
    } while (now_ms() < end);
    return TIMEOUT;
}
