/* Keeps the newest table of a file: read when the file changes, shared by all worker threads. */
#define _GNU_SOURCE
#include "picker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_EVERY_MS = 250, LOOK_LEAST_MS = 30000, MAX_FILE = 256 << 20 };

struct source {
    char *path;
    pthread_mutex_t lock; /* of `current` */
    table *current;
    pthread_mutex_t loading; /* of what follows */
    struct stat known;
    int64_t wait_ms; /* until a file that cannot be read is looked at again */
    atomic_int_fast64_t look_at_ms;
};

source *source_new(text path) {
    source *made = calloc(1, sizeof *made);
    if (!made || !(made->path = strndup(path.at, path.size))) {
        free(made);
        return NULL;
    }
    made->wait_ms = LOOK_EVERY_MS / 2;
    pthread_mutex_init(&made->lock, NULL);
    pthread_mutex_init(&made->loading, NULL);
    return made;
}

void source_free(source *gone) {
    if (!gone)
        return;
    table_release(gone->current);
    pthread_mutex_destroy(&gone->lock);
    pthread_mutex_destroy(&gone->loading);
    free(gone->path);
    free(gone);
}

/* NULL: there is no table in it. `*unread`: nor is known whether there is, for it could not be read to its end. */
static table *read_file(const char *path, struct stat *about, bool *unread) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    *unread = file < 0;
    if (file < 0)
        return NULL;
    table *made = NULL;
    char *bytes = NULL;
    if (!fstat(file, about) && S_ISREG(about->st_mode) && about->st_size > 0 && about->st_size <= MAX_FILE) {
        size_t size = (size_t)about->st_size, got = 0;
        ssize_t now = 0;
        bytes = malloc(size);
        while (bytes && got < size && ((now = read(file, bytes + got, size - got)) > 0 || (now < 0 && errno == EINTR)))
            got += now > 0 ? (size_t)now : 0;
        *unread = got < size;
        made = *unread ? NULL : table_parse(bytes, size);
        if (!made)
            free(bytes);
    }
    close(file);
    return made;
}

static bool changed(const struct stat *one, const struct stat *other) {
    return one->st_ino != other->st_ino || one->st_size != other->st_size ||
           one->st_mtim.tv_sec != other->st_mtim.tv_sec || one->st_mtim.tv_nsec != other->st_mtim.tv_nsec;
}

/* Looks at the file at most every 250 ms, one thread at a time; the others go on with the table there is. A file that
 * could not be read is looked at again though it stays the same, after 0.25 s, 0.5 s, and so on up to half a minute:
 * its permissions change, and nothing else tells. */
look source_look(source *of) {
    int64_t now = (int64_t)now_ms(CLOCK_MONOTONIC_COARSE);
    if (now < atomic_load_explicit(&of->look_at_ms, memory_order_relaxed) || pthread_mutex_trylock(&of->loading))
        return LOOK_SAME;
    look seen = LOOK_SAME;
    struct stat found;
    int64_t wait_ms = LOOK_EVERY_MS;
    if (!stat(of->path, &found) && changed(&found, &of->known)) {
        bool unread = false;
        table *made = read_file(of->path, &found, &unread);
        if (unread)
            wait_ms = of->wait_ms < LOOK_LEAST_MS / 2 ? 2 * of->wait_ms : LOOK_LEAST_MS;
        else
            of->known = found;
        of->wait_ms = unread ? wait_ms : LOOK_EVERY_MS / 2;
        if (made) {
            pthread_mutex_lock(&of->lock);
            table *old = of->current;
            of->current = made;
            pthread_mutex_unlock(&of->lock);
            table_release(old);
        }
        seen = made ? LOOK_LOADED : LOOK_REFUSED;
    }
    atomic_store(&of->look_at_ms, now + wait_ms);
    pthread_mutex_unlock(&of->loading);
    return seen;
}

table *source_table(source *of) {
    pthread_mutex_lock(&of->lock);
    table *held = of->current;
    if (held)
        table_hold(held);
    pthread_mutex_unlock(&of->lock);
    return held;
}
