from standin_log import called


class EndEffectorPoseViaPlanning:
    def __init__(self, absolute_mode=True):
        called("EndEffectorPoseViaPlanning", absolute_mode)
