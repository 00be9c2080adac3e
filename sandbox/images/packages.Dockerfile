# What pip put into site/ on the host, below the runner's layer: a new runner does not install it again.
ARG BASE
FROM ${BASE}
COPY site /opt/site
ENV PYTHONPATH=/opt/site
RUN python3 -m compileall -q /opt/site
