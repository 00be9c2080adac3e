# The topmost layer of every image: the runner, and nothing a program could use to become another user. Nobody may read an
# executable: what is started from one is not "dumpable", so it cannot give up its place in front of the memory killer.
ARG BASE
FROM ${BASE}
COPY sandbox /opt/codelutra/sandbox
RUN ln -sf "$(command -v python3)" /opt/codelutra/python3 \
 && /opt/codelutra/python3 -m compileall -q /opt/codelutra \
 && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
 && find / -xdev -perm /111 -type f \( -name 'ld-*' -o -name 'ld.so' -o ! -name '*.so*' \) \
    -exec sh -c 'for f; do [ "$(head -c 4 "$f" | tail -c 3)" != ELF ] || chmod go-r "$f"; done' sh {} + \
 && mkdir -p /box && rm -rf /tmp /var/tmp && ln -s /box/w /tmp && ln -s /box/w /var/tmp
