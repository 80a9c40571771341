/* The textbook example's client, as it behaves: reads to EOF in 30-byte pieces, one system call each, stores what
 * came, replies with 10 bytes, NUL included. Checks nothing, on purpose.
 * Usage: textbook-client ADDRESS PORT FILE. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char *argv[]) {
    if (argc != 4) {
        return 2;
    }
    FILE *file = fopen(argv[3], "wb");
    int server = socket(PF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    address.sin_addr.s_addr = inet_addr(argv[1]);
    if (connect(server, (struct sockaddr *)&address, sizeof address) == -1) {
        return 1;
    }
    char buffer[30];
    ssize_t bytes;
    while ((bytes = read(server, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, bytes, file);
    }
    puts("Received file data");
    write(server, "Thank you", 10);
    fclose(file);
    close(server);
    return 0;
}
