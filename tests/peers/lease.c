/* Holds a write lease on a file until its standard input ends, as a file server does for its client: lease FILE */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char byte;
    int file = argc == 2 ? open(argv[1], O_RDWR) : -1;
    signal(SIGIO, SIG_IGN);
    if (file < 0 || fcntl(file, F_SETLEASE, F_WRLCK) < 0) {
        fprintf(stderr, "no lease\n");
        return 1;
    }
    fprintf(stderr, "holds it\n");
    return read(0, &byte, 1) != 0;
}
