# The topmost layer of every image: the runner, and nothing a program could use to become another user.
ARG BASE
FROM ${BASE}
COPY sandbox /opt/codelutra/sandbox
RUN ln -sf "$(command -v python3)" /opt/codelutra/python3 \
 && /opt/codelutra/python3 -m compileall -q /opt/codelutra \
 && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
 && mkdir -p /box && rm -rf /tmp /var/tmp && ln -s /box/w /tmp && ln -s /box/w /var/tmp
