/* Holds a write lease on a file until its standard input ends, as a file server does for its client, or with another
   argument until another program wants to open the file: lease FILE [until asked] */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static int file;

static void give_up(int signal)
{
    (void)signal;
    fcntl(file, F_SETLEASE, F_UNLCK);
}

int main(int argc, char **argv)
{
    char byte;
    struct sigaction action = {.sa_flags = SA_RESTART};
    action.sa_handler = argc > 2 ? give_up : SIG_IGN;
    sigaction(SIGIO, &action, NULL);
    file = argc > 1 ? open(argv[1], O_RDWR) : -1;
    if (file < 0 || fcntl(file, F_SETLEASE, F_WRLCK) < 0) {
        fprintf(stderr, "no lease\n");
        return 1;
    }
    fprintf(stderr, "holds it\n");
    return read(0, &byte, 1) != 0;
}
