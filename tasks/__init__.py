"""What Prefect adds (cache key, retries, timeout, name) around each function of `codelutra.pipeline.stages`.

Tasks take and return small references (`Run`, `Policy`, `Artifact`), never frames. Delete the decorators and they
still work.
"""
