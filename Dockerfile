# hawking as a container: one static program, CA certificates, nothing else. docs/deploying.md says how to run it.
#
#   docker build -t hawking .
#
# Where Docker cannot fetch the base image of the build stage, or the program is built elsewhere already:
#
#   bash deploy/stage dist && docker build -t hawking --build-arg PROGRAM=prebuilt .
#
# Which of the two stages gives the program: `build` or `prebuilt`.
ARG PROGRAM=build

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN bash deploy/stage /out

FROM scratch AS prebuilt
COPY dist /out

# hadolint ignore=DL3006
FROM ${PROGRAM} AS program

FROM scratch
COPY --from=program /out /
# Nobody: there is no /etc/passwd, and Kubernetes wants a number to see that it is not root.
USER 65532:65532
# Consumers; AdminService; probes and metrics. The last two listen on loopback unless configured otherwise.
EXPOSE 50051 50052 9090
# hawking catches SIGTERM as the first process of a container too, and drains. It writes nothing but its logs, to standard error:
# the root can be read-only. There is no HEALTHCHECK: what is healthy is a matter of the orchestrator, which asks /livez and
# /readyz; compose asks `hawking admin info`.
ENTRYPOINT ["hawking"]
CMD ["serve"]
