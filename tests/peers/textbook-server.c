/* The textbook example's server, as it behaves: sends a file in 30-byte chunks, one system call each, half-closes,
 * reads the reply into 30 bytes and prints it as a C string. Checks nothing, on purpose.
 * Usage: textbook-server PORT FILE; prints "listening on 127.0.0.1:PORT" (port 0 picks a free one). */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char *argv[]) {
    if (argc != 3) {
        return 2;
    }
    FILE *file = fopen(argv[2], "rb");
    int listener = socket(PF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) == -1) {
        return 1;
    }
    listen(listener, 5);
    socklen_t size = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &size);
    fprintf(stderr, "listening on 127.0.0.1:%d\n", ntohs(address.sin_port));

    int client = accept(listener, NULL, NULL);
    char buffer[30];
    for (;;) {
        size_t bytes = fread(buffer, 1, sizeof buffer, file);
        if (bytes < sizeof buffer) {
            write(client, buffer, bytes);
            break;
        }
        write(client, buffer, sizeof buffer);
    }
    shutdown(client, SHUT_WR);
    memset(buffer, 0, sizeof buffer);
    read(client, buffer, sizeof buffer);
    printf("Message from client: %s \n", buffer);
    fclose(file);
    close(client);
    close(listener);
    return 0;
}
