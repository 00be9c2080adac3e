"""One file a stage: what Prefect adds (cache key, retries, timeout, name) around one plain function of `codelutra.stages`.

Tasks take and return small references (`RunRef`, `Policy`, `Artifact`), never frames. Delete the decorators and they
still work.
"""
