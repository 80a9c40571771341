/* Writes one byte of a file through a mapping, and sets both of its times back: mapped-write FILE OFFSET BYTE */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
    struct stat before;
    int file = argc == 4 ? open(argv[1], O_RDWR) : -1;
    if (file < 0 || fstat(file, &before) < 0)
        return 1;
    char *bytes = mmap(NULL, before.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED)
        return 1;
    bytes[atol(argv[2])] = (char)atoi(argv[3]);
    if (msync(bytes, before.st_size, MS_SYNC) < 0)
        return 1;
    struct timespec times[2] = {before.st_atim, before.st_mtim};
    return futimens(file, times) < 0;
}
