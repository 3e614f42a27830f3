/* disk.h: a memory that is a file.
 *
 * Places in it are addresses inside a reservation that nobody can touch: pointer minus base is the
 * offset in the file. The file has no name, so that nothing is left of it when the process is
 * killed, and all its blocks from the start, so that it cannot run full later.
 *
 * Data pass through aligned buffers, two for each direction, straight to the device (O_DIRECT)
 * where the file system takes that: the system's cache would take the memory that the disk is to
 * spare. While one buffer is copied, a thread reads or writes the other. */
#ifndef M6C_DISK_H
#define M6C_DISK_H

#include "ir/base.h"

typedef struct Disk Disk;

/* EXIT_SYSTEM when the folder's file system has no `bytes` left; says how many it has. */
Status disk_open(const char *folder, int64_t bytes, Disk **out);
void disk_close(Disk *d); /* NULL is fine */
void *disk_base(const Disk *d);
/* Whether p is a place in it. */
bool disk_holds(const Disk *d, const void *p);
/* One thread may read while one writes. from and to: places, with `bytes` behind them. */
Status disk_read(Disk *d, void *host, const void *from, int64_t bytes);
Status disk_write(Disk *d, void *to, const void *host, int64_t bytes); /* host NULL: zeros */
/* Of the buffers. */
int64_t disk_buffer_bytes(const Disk *d);

#endif
