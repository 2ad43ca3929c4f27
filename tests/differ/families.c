/* families.c - what a socket says of its family and its defaults before it is anything. */
#include "differ.h"

CASE(names_of_a_fresh_one, "names, options and questions on a socket of which nothing is decided")
{
    for (int family = AF_INET; family; family = family == AF_INET ? AF_INET6 : 0) {
        struct sockaddr_storage at = {.ss_family = 99};
        int fd = socket(family, SOCK_STREAM, 0), value = -1;
        socklen_t len = sizeof at;
        SAY(getsockname(fd, (struct sockaddr *)&at, &len));
        say("%d, %u bytes", at.ss_family, len);
        SAY(getpeername(fd, (struct sockaddr *)&at, &len));
        for (int option = 1; option < 80; option++) {
            len = sizeof value;
            value = -1;
            if (option == SO_RCVBUF || option == SO_SNDBUF || option == 57 /* SO_COOKIE */)
                continue;
            int got = getsockopt(fd, SOL_SOCKET, option, &value, &len);
            say("SOL_SOCKET %d: %d %d %u", option, got, got ? errno : value, len);
        }
        for (int option = 1; option < 80; option++) {
            unsigned char text[64] = "";
            len = sizeof text;
            int got = getsockopt(fd, IPPROTO_IPV6, option, text, &len);
            say("IPPROTO_IPV6 %d: %d %d %u", option, got, got ? errno : text[0], len);
            len = sizeof text;
            got = getsockopt(fd, IPPROTO_IP, option, text, &len);
            say("IPPROTO_IP %d: %d %d %u", option, got, got ? errno : text[0], len);
        }
        char interfaces[4096];
        struct {
            int len;
            char *at;
        } all = {sizeof interfaces, interfaces};
        SAY(ioctl(fd, 0x8912 /* SIOCGIFCONF */, &all));
        char request[40] = "lo";
        SAY(ioctl(fd, 0x8915 /* SIOCGIFADDR */, request));
        SAY(unread(fd));
    }
}

CASE(bound_then_connected, "options of one that was bound before")
{
    int l = listener(4), fd = fresh_socket(), value = 0;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof value;
    SAY(set_option(fd, SO_REUSEADDR, 1));
    SAY(bind(fd, (struct sockaddr *)&any, sizeof any));
    SAY(connect(fd, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(accept(l, NULL, NULL) >= 0);
    SAY(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &len));
    say("%d", value);
    SAY(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, &len));
    say("%d", value);
}
