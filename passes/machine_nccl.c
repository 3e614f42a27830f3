/* machine_nccl.c: a node's network as NCCL saw it, from the file that it writes where
 * NCCL_TOPO_DUMP_FILE says: <system> <cpu> <pci link_speed link_width> <gpu sm> <nvlink count>,
 * <nic> <net speed latency>.
 *
 * Devices reach each other over NVLink where every GPU has some, with the rate per link that NCCL
 * counts with for their architecture, and otherwise over PCIe, with three quarters of the wire's
 * rate. Network ports are all alike: their mean. Times are not in the file, but for the network's:
 * 2 us over NVLink, 3 us over PCIe, 5 us over the network are assumed. Several nodes in one file
 * count as one. */
#include <expat.h>
#include <stdlib.h>
#include <string.h>

#include "passes/machine_private.h"

enum { DEPTH = 32 };

typedef struct {
    Session *s;
    XML_Parser xml;
    const char *root; /* the outermost element; NULL before it */
    int depth;
    double pci[DEPTH]; /* bytes/s over the PCI bridges that are open at each depth; 0: none */
    int64_t gpus, linked, ports;
    double sm;             /* of the GPU last seen */
    double links;          /* bytes/s of its NVLinks so far */
    double nvlink, pcie;   /* least of all GPUs; 0: none seen */
    double speed, latency; /* sums over ports */
} Dump;

static const char *attribute(const char **a, const char *name) {
    for (; *a; a += 2)
        if (strcmp(a[0], name) == 0) return a[1];
    return "";
}

/* The number that a text begins with: 16 of "16.0 GT/s PCIe"; 0: none. */
static double number_in(const char *text) {
    double x = 0;
    return parse_f64(text, strspn(text, "0123456789."), &x) && x < 1e9 ? x : 0;
}

static double least(double a, double b) { return a == 0 || (b > 0 && b < a) ? b : a; }

/* bytes/s of one NVLink, as NCCL counts. */
static double nvlink_rate(double sm) {
    static const struct {
        double sm, rate;
    } from[] = {{100, 40.1e9}, {90, 20.6e9}, {87, 20e9}, {86, 12e9}, {70, 20e9}, {0, 18e9}};
    size_t i = 0;
    while (sm < from[i].sm) i++;
    return from[i].rate;
}

/* bytes/s of one PCIe lane: 8 or 10 wire bits a byte, and three quarters of that. */
static double lane_rate(double transfers) {
    return transfers * (transfers > 5 ? 0.75 : 0.6) / 8e-9;
}

static void on_pci(Dump *d, const char **a) {
    double rate =
        lane_rate(number_in(attribute(a, "link_speed"))) * number_in(attribute(a, "link_width"));
    d->pci[d->depth] = least(d->pci[d->depth], rate);
}

static void on_gpu(Dump *d, const char **a) {
    d->gpus++;
    d->sm = number_in(attribute(a, "sm"));
    d->links = 0;
    d->pcie = least(d->pcie, d->pci[d->depth]);
}

static void on_nvlink(Dump *d, const char **a) {
    d->links += number_in(attribute(a, "count")) * nvlink_rate(d->sm);
}

static void on_net(Dump *d, const char **a) {
    double speed = number_in(attribute(a, "speed")) * 1e6 / 8; /* Mb/s */
    double latency = number_in(attribute(a, "latency"));
    if (speed == 0) return;
    d->ports++;
    d->speed += speed;
    d->latency += latency > 0 ? latency : 5;
}

static void on_start(void *ctx, const char *name, const char **a) {
    static const struct {
        const char *name;
        void (*read)(Dump *d, const char **a);
    } elements[] = {{"pci", on_pci}, {"gpu", on_gpu}, {"nvlink", on_nvlink}, {"net", on_net}};
    Dump *d = ctx;
    if (!d->root) d->root = intern(d->s, name);
    if (d->depth + 1 == DEPTH) {
        XML_StopParser(d->xml, XML_FALSE);
        return;
    }
    d->depth++;
    d->pci[d->depth] = d->pci[d->depth - 1];
    for (size_t i = 0; i < COUNT(elements); i++)
        if (strcmp(elements[i].name, name) == 0) elements[i].read(d, a);
}

static void on_end(void *ctx, const char *name) {
    Dump *d = ctx;
    d->depth--;
    if (strcmp(name, "gpu") != 0 || d->links == 0) return;
    d->linked++;
    d->nvlink = least(d->nvlink, d->links);
}

static void put_rate(Buf *out, const char *name, double rate, double latency) {
    buf_printf(out, "link %s %.4gGB/s latency %.4gus", name, rate / 1e9, latency);
}

static void put_lines(const Dump *d, Buf *out) {
    bool nvlink = d->linked == d->gpus;
    buf_printf(out, "devices %lld\n", (long long)d->gpus);
    if (d->gpus > 1) {
        put_rate(out, nvlink ? "nvlink" : "pcie", nvlink ? d->nvlink : d->pcie, nvlink ? 2 : 3);
        buf_printf(out, " joins %lld\n", (long long)d->gpus);
    }
    if (d->ports == 0) return;
    /* more ports than devices: each device has several, as one */
    int64_t ports = MIN(d->ports, d->gpus);
    put_rate(out, "net", d->speed / (double)ports, d->latency / (double)d->ports);
    buf_printf(out, " ports %lld\n", (long long)ports);
}

Loc xml_loc(const void *parser, uint16_t file) {
    XML_Parser xml = (XML_Parser)(uintptr_t)parser;
    return (Loc){file, (uint16_t)MIN(XML_GetCurrentColumnNumber(xml) + 1, UINT16_MAX),
                 (uint32_t)XML_GetCurrentLineNumber(xml)};
}

bool nccl_network(Session *s, const char *file, const char *text, size_t n, Buf *out) {
    Dump d = {.s = s, .xml = XML_ParserCreate(NULL)};
    uint16_t number = session_add_file(s, file, text, n);
    if (!d.xml || n > INT32_MAX) BUG("no memory for reading %s", file);
    XML_SetUserData(d.xml, &d);
    XML_SetElementHandler(d.xml, on_start, on_end);
    bool ok = XML_Parse(d.xml, text, (int)n, 1) == XML_STATUS_OK;
    if (!ok)
        diag_error(s, xml_loc(d.xml, number), "%s", XML_ErrorString(XML_GetErrorCode(d.xml)));
    else if (strcmp(d.root, "system") != 0 || d.gpus == 0)
        diag_error(s, (Loc){number, 1, 1}, "not a topology of NCCL: no <system> with a <gpu>");
    else if (d.gpus > 1 && d.linked < d.gpus && d.pcie == 0)
        diag_error(s, (Loc){number, 1, 1}, "no rate between GPUs: neither <nvlink> nor link_speed");
    else
        put_lines(&d, out);
    XML_ParserFree(d.xml);
    return ok && out->n > 0;
}
