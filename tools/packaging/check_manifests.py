"""The Containerfile and the Kubernetes manifests, as far as that needs neither an engine nor a cluster.

What they copy is there, images have tags, names that have to be the same are, and every configuration in them passes
`petrel --check-config`. Usage: check_manifests.py FOLDER-OF-PROGRAMS
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from pages import blocks, lines, plan, sections

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tools/packaging"
INSTALL = "docs/operate/INSTALL.md"


def hold(what, text):
    if not what:
        sys.exit(f"package-check: {text}")


# What the process may take from SIGTERM to its end: five seconds for its clients, and as long for its storage.
STOP_S = 10


def constant(file, name):
    """Seconds that a constant of the source has."""
    found = re.search(rf"const {name}: Duration = Duration::from_secs\((\d+)\)", (ROOT / file).read_text())
    hold(found, f"{file} has no {name} in seconds")
    return int(found[1])


def check_config(petrel, text, name):
    with tempfile.TemporaryDirectory() as folder:
        # Secrets of a cluster: files that are not here. No token lets nobody in.
        (Path(folder) / "tokens").touch()
        text = re.sub(r'"/etc/petrel-tokens/tokens"', f'"{folder}/tokens"', text)
        file = Path(folder) / "petrel.toml"
        file.write_text(text)
        done = subprocess.run([petrel, "--config", file, "--check-config"], capture_output=True, text=True)
        hold(done.returncode == 0, f"the configuration of {name}: {done.stdout}{done.stderr}")
    return tomllib.loads(text)


def check_options(petrel, command):
    """A command line of petrelctl has options that there are."""
    program, name, *rest = command
    hold(program == "/usr/bin/petrelctl", f"{program} is not in the container")
    done = subprocess.run([petrel.with_name("petrelctl"), name, "--help"], capture_output=True, text=True)
    hold(done.returncode == 0, f"petrelctl has no command {name}")
    for option in (word for word in rest if word.startswith("-")):
        hold(re.search(rf"(^|\s){re.escape(option)}[ ,]", done.stdout), f"petrelctl {name} has no option {option}")


def instructions(text):
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return [line.split(None, 1) for line in text.splitlines() if line.strip()]


def check_container(petrel):
    lines = instructions((HERE / "Containerfile").read_text())
    stages, copied = [], set()
    for what, rest in lines:
        words = shlex.split(rest) if not rest.startswith("[") else []
        if what == "FROM":
            hold(re.fullmatch(r"[a-z0-9./-]+:[0-9a-z][0-9a-z.-]+", words[0]), f"{words[0]} has no tag")
            hold(not words[0].endswith(":latest"), f"{words[0]} is another image every day")
            stages.append(words[2] if len(words) > 1 else "")
        elif what == "COPY" and not words[0].startswith("--from"):
            for source in words[:-1]:
                hold((ROOT / source).exists(), f"the Containerfile copies {source}, which is not there")
                copied.add(source.split("/")[0])
        elif what == "COPY":
            hold(words[0].removeprefix("--from=") in stages, f"no stage {words[0]}")
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    missing = {member.split("/")[0] for member in workspace["members"]} - copied
    hold(not missing, f"the Containerfile does not copy members of the workspace: {missing}")
    rust = workspace["package"]["rust-version"]
    images = [rest.split()[0] for what, rest in lines if what == "FROM"]
    hold(f"rust:{rust}" in images[0], f"{images[0]} is not Rust {rust}")
    users = [rest for what, rest in lines if what == "USER"]
    hold(users and not users[-1].startswith(("0", "root")), "the container runs as root")
    health = next((rest for what, rest in lines if what == "HEALTHCHECK"), None)
    hold(health, "the container has no health check")
    check_options(petrel, json.loads(health[health.index("[") :]))
    config = check_config(petrel, (HERE / "container.toml").read_text(), "the container")
    exposed = next(rest for what, rest in lines if what == "EXPOSE").split()
    ports = {listener["address"].rsplit(":", 1)[1] for listener in config["listener"]}
    hold(set(exposed) == ports, f"the container exposes {exposed}, its configuration has {ports}")
    print("the Containerfile: its paths, images, user and configuration are good")


def check_kubernetes(petrel):
    try:
        import yaml
    except ImportError:
        print("not run here: the Kubernetes manifests: this Python has no module yaml")
        return
    found = {}
    for file in sorted((HERE / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            found[document["kind"], document["metadata"]["name"]] = document
    stateful = found["StatefulSet", "petrel"]["spec"]
    template = stateful["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    hold(stateful["selector"]["matchLabels"] == labels, "the set does not select its own pods")
    hold(("Service", stateful["serviceName"]) in found, "the set has no service of its own")
    budget = found["PodDisruptionBudget", "petrel"]["spec"]
    hold(budget["selector"]["matchLabels"] == labels, "the budget is for other pods")

    [container] = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = [document["spec"] for (kind, _), document in found.items() if kind == "Service"]
    for service in services:
        hold(service["selector"] == labels, "a service selects other pods")
        hold(all(port["targetPort"] in ports for port in service["ports"]), "a service names a port that no pod has")
    paths = {"startupProbe": "ready", "readinessProbe": "ready", "livenessProbe": "live"}
    for probe, path in paths.items():
        asked = container[probe]["httpGet"]
        hold((asked["path"], asked["port"]) == (f"/health/{path}", "admin"), f"{probe} asks {asked}")
    drain = container["lifecycle"]["preStop"]["exec"]["command"]
    check_options(petrel, drain)
    within = int(drain[drain.index("--within") + 1])
    # The drain, what clients are given beyond it, and the end of the process with what it writes down.
    least = within + constant("tools/src/admin/doors.rs", "BEYOND") + STOP_S
    grace = pod["terminationGracePeriodSeconds"]
    hold(grace >= least, f"the pod is killed after {grace} s, and may be drained and stopped after {least} s")
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    hold(container["image"] == f"petrel:{version}", f"{container['image']} is not version {version}")

    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    hold(set(mounts) == volumes, f"mounts are {set(mounts)}, volumes {volumes}")
    [source] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    data = found["ConfigMap", source]["data"]
    file = Path(container["args"][1])
    hold(str(file.parent) == mounts["configuration"] and file.name in data, f"{file} is not mounted")
    config = check_config(petrel, data[file.name], "the ConfigMap")
    hold(config["storage"]["path"] == mounts["state"], "what is stored is not on the volume")
    hold(config["engine"]["control"] == mounts["run"], "the control folder is read-only")
    served = {int(config["admin"]["address"].rsplit(":", 1)[1])}
    served |= {int(listener["address"].rsplit(":", 1)[1]) for listener in config["listener"]}
    hold(served == set(ports.values()), f"the pod has the ports {ports}, its configuration {served}")
    security = pod["securityContext"]
    users = [rest for what, rest in instructions((HERE / "Containerfile").read_text()) if what == "USER"]
    hold(users[-1] == f"{security['runAsUser']}:{security['runAsGroup']}", "the pod runs as another user")
    print("the Kubernetes manifests: names, ports, volumes, probes and configuration fit together")


def follow_container(petrel, version):
    """What INSTALL.md shows for a container, as far as that needs no engine."""
    [block] = blocks(INSTALL, "Container", "sh")
    build, start, ask = (shlex.split(line) for line in lines(block))
    file = next(word for word in build if word.endswith("Containerfile"))
    hold((ROOT / file).resolve() == HERE / "Containerfile", f"{file} is not the Containerfile")
    image = f"petrel:{version}"
    hold(build[-2:] == [image, "."] and start[-1] == image, f"the image is not {image}")
    made = instructions((HERE / "Containerfile").read_text())
    volume = start[start.index("-v") + 1].split(":")[1]
    hold(["VOLUME", volume] in made, f"{volume} is no volume of the container")
    port = start[start.index("-p") + 1].split(":")[1]
    hold(any(what == "EXPOSE" and port in rest.split() for what, rest in made), f"port {port} is not exposed")
    hold(ask[:4] == ["podman", "exec", start[start.index("--name") + 1], "petrelctl"], f"{ask} asks somebody else")
    check_options(petrel, ["/usr/bin/petrelctl", *ask[4:]])
    print(f"{INSTALL}: the image, its volume, its port and what is asked in it are those of the Containerfile")


def follow_kubernetes(petrel):
    """What INSTALL.md shows for a cluster, as far as that needs none."""
    [block] = blocks(INSTALL, "Kubernetes", "sh")
    token, secret, apply = (shlex.split(line) for line in lines(block))
    hold(token[0] == "petrelctl", f"{token} is none of petrelctl")
    subprocess.run([petrel.with_name("petrelctl"), *token[1:]], check=True, capture_output=True)
    hold((ROOT / apply[apply.index("-f") + 1]).resolve() == HERE / "kubernetes", f"{apply} applies something else")
    if not shutil.which("kubectl"):
        return print("not run here: the secret of the cluster: there is no kubectl")
    with tempfile.TemporaryDirectory() as folder:
        make = [petrel.with_name("petrelctl"), "token", "tokens", "prometheus"]
        subprocess.run(make, cwd=folder, check=True, capture_output=True)
        words = [*secret, "--dry-run=client", "-o", "json"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        hold(done.returncode == 0, f"{' '.join(secret)}: {done.stderr}")
        made = json.loads(done.stdout)
    wanted = (HERE / "kubernetes/statefulset.yaml").read_text()
    hold(f"secretName: {made['metadata']['name']}\n" in wanted, "the set mounts another secret")
    [key] = made["data"]
    hold(f"- key: {key}\n" in wanted, f"the set mounts another key than {key}")
    print(f"{INSTALL}: the secret that kubectl makes is the one that the set mounts")


def follow_source(petrel):
    """What INSTALL.md shows for those who build: what `make run` does, which pages.py starts."""
    [block] = blocks(INSTALL, "From source", "sh")
    hold(lines(block) == [step.strip() for step in plan("make run")], f"{INSTALL} builds otherwise than make run")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([petrel.with_name("petrelctl"), "man", f"{folder}/man"], check=True)
        hold(any(Path(folder, "man").iterdir()), "petrelctl man writes nothing")
    subprocess.run([petrel.with_name("petrelctl"), "completions", "bash"], check=True, capture_output=True)
    print(f"{INSTALL}: from source is what make run does")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check_manifests.py FOLDER-OF-PROGRAMS")
    petrel = Path(sys.argv[1]).resolve() / "petrel"
    check_container(petrel)
    check_kubernetes(petrel)
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    follow_container(petrel, version)
    follow_kubernetes(petrel)
    follow_source(petrel)
    # The first is check.py's.
    followed = {"Debian package", "Container", "Kubernetes", "From source"}
    shown = {heading for heading, text in sections(INSTALL).items() if "```" in text}
    hold(shown == followed, f"{INSTALL} has blocks below {shown - followed}, which nothing runs")
    print("not run here: building the image and applying the manifests: that needs an engine and a cluster")


if __name__ == "__main__":
    main()
