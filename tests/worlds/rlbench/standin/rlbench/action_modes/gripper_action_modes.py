from standin_log import called


class Discrete:
    def __init__(self):
        called("Discrete")
