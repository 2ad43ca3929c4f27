/* namespace.c - namespaces, who may enter, and the spaces (namespace x network namespace) with their
 * directories.
 *
 * Theory of operation
 *
 * A secret is kept as a salted PBKDF2 hash and compared in constant time; the text is wiped from where it
 * arrived. Owner, group and mode are asked first, so that only those whom they admit can make the daemon
 * compute a hash.
 *
 * The loopback address of one network namespace is not that of another: apps meet only inside a space.
 * Addresses of the daemon's own network namespace come from netaddr.c; of another one only loopback is known.
 */
#include <ctype.h>
#include <grp.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/registry.h"
#include "session/directory.h"
#include "shm/segment.h"

#define SECRET_ROUNDS 16384
#define SPACES_MAX 1024u
#define NAMESPACES_MAX 1024u

static int secret_hash(const char *secret, const uint8_t *salt, uint8_t *out)
{
    return PKCS5_PBKDF2_HMAC(secret, (int)strlen(secret), salt, SECRET_SALT, SECRET_ROUNDS, EVP_sha256(),
                             SECRET_HASH, out) == 1
               ? 0
               : BERTH_E_NO_MEMORY;
}

bool ns_id_valid(const char *id)
{
    if (!*id || strlen(id) >= CTL_NAME_MAX)
        return false;
    for (; *id; id++) {
        if (!isalnum((unsigned char)*id) && !strchr("._-", *id))
            return false;
    }
    return true;
}

struct ns *ns_find(struct daemon *d, const char *id)
{
    list_for_each(&d->namespaces, it, after)
    {
        struct ns *ns = container_of(it, struct ns, link);
        if (!strcmp(ns->id, id))
            return ns;
    }
    return NULL;
}

int ns_add(struct daemon *d, const char *id, const char *secret, uid_t owner, gid_t group, uint32_t mode)
{
    if (!ns_id_valid(id))
        return BERTH_E_INVALID;
    if (ns_find(d, id))
        return BERTH_E_BUSY;
    uint32_t count = 0;
    list_for_each(&d->namespaces, it, after) count++;
    if (count >= NAMESPACES_MAX)
        return BERTH_E_LIMIT;
    struct ns *ns = calloc(1, sizeof *ns);
    if (!ns)
        return BERTH_E_NO_MEMORY;
    memcpy(ns->id, id, strlen(id) + 1);
    ns->owner = owner;
    ns->group = group;
    ns->mode = mode ? mode : d->socket_mode;
    if (secret && *secret) {
        ns->has_secret = true;
        if (RAND_bytes(ns->salt, SECRET_SALT) != 1 || secret_hash(secret, ns->salt, ns->hash)) {
            free(ns);
            return BERTH_E_NO_MEMORY;
        }
    }
    list_append(&d->namespaces, &ns->link);
    return 0;
}

static bool in_group(const struct conn *c, gid_t group)
{
    if (c->gid == group)
        return true;
#ifdef SO_PEERGROUPS
    gid_t groups[1024];
    socklen_t len = sizeof groups;
    if (getsockopt(c->watch.fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) == 0) {
        for (uint32_t i = 0; i < len / sizeof groups[0]; i++) {
            if (groups[i] == group)
                return true;
        }
    }
#endif
    return false;
}

bool ns_admits_user(struct daemon *d, const struct ns *ns, const struct conn *c)
{
    if (c->uid == 0 || c->uid == d->uid)
        return true;
    if (c->uid == ns->owner)
        return (ns->mode & 0600) == 0600;
    if (in_group(c, ns->group))
        return (ns->mode & 0060) == 0060;
    return (ns->mode & 0006) == 0006;
}

int ns_admit(struct daemon *d, const struct ns *ns, const struct conn *c, const char *secret)
{
    if (!ns_admits_user(d, ns, c))
        return BERTH_E_PERMISSION;
    if (!ns->has_secret)
        return 0;
    uint8_t hash[SECRET_HASH];
    int err = secret_hash(secret, ns->salt, hash);
    if (!err && CRYPTO_memcmp(hash, ns->hash, SECRET_HASH) != 0)
        err = BERTH_E_WRONG_SECRET;
    OPENSSL_cleanse(hash, sizeof hash);
    return err;
}

static void ns_release(struct ns *ns)
{
    if (!ns->deleted || ns->spaces)
        return;
    OPENSSL_cleanse(ns, sizeof *ns);
    free(ns);
}

void namespaces_free(struct daemon *d)
{
    list_for_each(&d->namespaces, it, after)
    {
        struct ns *ns = container_of(it, struct ns, link);
        list_unlink(&ns->link);
        ns->deleted = true;
        ns_release(ns);
    }
}

/* ---- spaces ---- */

static struct space *space_find(struct daemon *d, const struct ns *ns, uint64_t netns, uint32_t *count)
{
    *count = 0;
    list_for_each(&d->spaces, it, after)
    {
        struct space *space = container_of(it, struct space, link);
        if (space->ns == ns && space->netns == netns)
            return space;
        ++*count;
    }
    return NULL;
}

int space_get(struct daemon *d, struct ns *ns, uint64_t netns, struct space **out)
{
    uint32_t count;
    struct space *space = space_find(d, ns, netns, &count);
    if (space) {
        *out = space;
        return 0;
    }
    if (count >= SPACES_MAX)
        return BERTH_E_LIMIT;
    space = calloc(1, sizeof *space);
    if (!space)
        return BERTH_E_NO_MEMORY;
    void *map;
    int err = segment_create("berth-directory", DIRECTORY_BYTES, &space->directory_fd, &map);
    if (err) {
        free(space);
        return err;
    }
    space->directory = map;
    directory_init(space->directory);
    if ((err = directory_live(space->directory)) != 0) {
        munmap(map, DIRECTORY_BYTES);
        close(space->directory_fd);
        free(space);
        return err;
    }
    directory_pause(space->directory, d->paused);
    if (netns == d->own_netns) /* it cannot fail: local_count is within DIR_LOCAL_ADDRS */
        (void)directory_set_local(space->directory, (const uint8_t(*)[16])d->local, d->local_count);
    space->ns = ns;
    ns->spaces++;
    space->netns = netns;
    list_init(&space->listeners);
    list_init(&space->pools);
    list_append(&d->spaces, &space->link);
    *out = space;
    return 0;
}

void space_put(struct daemon *d, struct space *space)
{
    /* leases of shadows may still be there: they name pools of this space, and go with their maker (ports.c)
     */
    if (space->apps || !list_empty(&space->listeners))
        return;
    list_unlink(&space->link);
    pools_free(space);
    directory_leave(space->directory);
    munmap(space->directory, DIRECTORY_BYTES);
    close(space->directory_fd);
    space->ns->spaces--;
    ns_release(space->ns);
    free(space);
}

bool space_is_local(const struct space *space, const uint8_t addr[16])
{
    return endpoint_is_loopback(addr) || directory_is_local(space->directory, addr);
}

/* ---- requests ---- */

static bool terminated(const char *text, size_t size)
{
    return memchr(text, 0, size) != NULL;
}

int handle_ns_add(struct daemon *d, struct request *r)
{
    const struct ctl_ns *m = &r->msg->ns;
    if (!terminated(m->id, sizeof m->id) || !terminated(m->secret, sizeof m->secret) ||
        !terminated(m->group, sizeof m->group))
        return BERTH_E_PROTOCOL;
    if (!conn_is_admin(d, r->conn))
        return BERTH_E_PERMISSION;
    gid_t group = d->has_socket_group ? d->socket_group : d->gid;
    if (m->group[0] && parse_group(m->group, &group))
        return BERTH_E_INVALID;
    if (m->mode && m->mode != 0600 && m->mode != 0660 && m->mode != 0666)
        return BERTH_E_INVALID;
    int err = ns_add(d, m->id, m->secret, r->conn->uid, group, m->mode);
    OPENSSL_cleanse((void *)(uintptr_t)m->secret, sizeof m->secret);
    if (!err)
        log_info("namespace '%s' added by uid %u", m->id, (unsigned)r->conn->uid);
    if (err)
        return err;
    send_done(d, r);
    return 0;
}

int handle_ns_del(struct daemon *d, struct request *r)
{
    const struct ctl_ns *m = &r->msg->ns;
    if (!terminated(m->id, sizeof m->id))
        return BERTH_E_PROTOCOL;
    if (!conn_is_admin(d, r->conn))
        return BERTH_E_PERMISSION;
    struct ns *ns = ns_find(d, m->id);
    if (!ns)
        return BERTH_E_UNKNOWN_NAMESPACE;
    if (!strcmp(ns->id, NS_DEFAULT)) /* programs that name none would stay on the kernel */
        return BERTH_E_INVALID;
    log_info("namespace '%s' deleted by uid %u", ns->id, (unsigned)r->conn->uid);
    struct ctl_header done = {.type = CTL_DONE, .len = sizeof done, .seq = r->seq};
    conn_send(d, r->conn, &done, sizeof done, NULL, 0); /* first: it may be a worker there itself */
    list_for_each(&d->apps, it, after)
    {
        struct app *app = container_of(it, struct app, link);
        if (app->space->ns != ns)
            continue;
        list_for_each(&app->workers, w, next) /* they die in conn_reap, and their listeners go with them */
            conn_doom(d, container_of(w, struct worker, link)->conn, BERTH_E_UNKNOWN_NAMESPACE);
    }
    list_unlink(&ns->link);
    ns->deleted = true;
    ns_release(ns);
    return 0;
}
