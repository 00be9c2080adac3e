"""Work on other machines, through a Ray cluster that exists already. Loaded only with `cluster:` in the config.

    connection.py   the cluster, and what is checked before anything is started on it
    places.py       an object on a node, a child process on a node, and processes on several nodes that train together
    crew.py         an object on every node that has Docker; calls go to a free one
    node.py         what runs there

Work is named by the keys of the store, which every node sees. If a node is lost, another does its work again.
"""
