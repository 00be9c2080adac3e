# An image with packages: what pip put into site/ on the host, and the runner.
ARG BASE
FROM ${BASE}
COPY site /opt/site
ENV PYTHONPATH=/opt/site
COPY sandbox /opt/codelutra/sandbox
RUN ln -sf "$(command -v python3)" /opt/codelutra/python3 \
 && /opt/codelutra/python3 -m compileall -q /opt/codelutra /opt/site \
 && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
 && mkdir -p /box && rm -rf /tmp /var/tmp && ln -s /box/w /tmp && ln -s /box/w /var/tmp
