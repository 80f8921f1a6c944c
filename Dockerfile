# SPDX-License-Identifier: Apache-2.0
# The node on apt's ROS 2, built with colcon: docs/install.md#docker.
ARG ROS_DISTRO=jazzy

# --- What the package needs; the development container begins here ----------------------------------
FROM ros:${ROS_DISTRO}-ros-base AS dependencies
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
COPY package.xml src/vla_ros/
COPY tools/install_ros_dependencies.sh src/vla_ros/tools/
RUN . "/opt/ros/${ROS_DISTRO}/setup.bash" \
  && sh src/vla_ros/tools/install_ros_dependencies.sh \
  && rm -rf /var/lib/apt/lists/*

# --- The node -------------------------------------------------------------------------------------
FROM dependencies AS node
COPY requirements/runtime.txt src/vla_ros/requirements/
ENV PIP_NO_CACHE_DIR=1
RUN . "/opt/ros/${ROS_DISTRO}/setup.bash" \
  && sh src/vla_ros/tools/install_ros_dependencies.sh venv \
  && rm -rf /var/lib/apt/lists/*
COPY . src/vla_ros
RUN . "/opt/ros/${ROS_DISTRO}/setup.bash" && . venv/bin/activate && colcon build
ENTRYPOINT ["/bin/bash", "-c", "source /ws/install/setup.bash && exec \"$@\"", "--"]
CMD ["ros2", "launch", "vla_ros", "vla.launch.py", "--show-args"]
