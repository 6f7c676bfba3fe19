package hostile

import (
	"context"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// What a cluster adds to a pod comes by grammars, so that the host has a say in it:
// these are the ways to say something else.

// accountFile delivers a file of the service account's volume.
func accountFile(name, file string, content []byte, reason denial.Reason, change func(*agentpb.CopyFileRequest)) Attack {
	return Attack{"a service account's " + name, reason, "volumes[", func(ctx context.Context, t *Target) error {
		p := t.Plan.Policy()
		i := slices.IndexFunc(p.Volumes, func(v podpolicy.Volume) bool { return v.Kind == podpolicy.VolumeServiceAccount })
		if i < 0 {
			return errNothingToAttack
		}
		r := podpolicy.AccountFileRequest(&p.Volumes[i], file, content)
		if change != nil {
			change(r)
		}
		_, err := t.Agent.CopyFile(ctx, r)
		return err
	}}
}

func outsideFolder() Attack {
	a := accountFile("token outside its folder", "token", []byte(jwt), podpolicy.PathDenied, func(r *agentpb.CopyFileRequest) {
		r.Path = strings.TrimSuffix(r.Path, "token") + "../../etc/token"
	})
	a.Claim = "path"
	return a
}

const jwt = "e30.e30.c2ln"

func ofAccount() []Attack {
	ca := "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
	return []Attack{
		accountFile("file of another name", "kubeconfig", []byte("x"), podpolicy.FileUndeclared, nil),
		accountFile("file in a folder", "a/token", []byte(jwt), podpolicy.FileUndeclared, nil),
		accountFile("token that is a program", "token", []byte("#!/bin/sh\n"), podpolicy.FileMismatch, nil),
		accountFile("token that is longer than any", "token", []byte(jwt+strings.Repeat("A", 20<<10)), podpolicy.FileMismatch, nil),
		accountFile("token with a line more", "token", []byte(jwt+"\nx"), podpolicy.FileMismatch, nil),
		accountFile("token, executable", "token", []byte(jwt), podpolicy.FileMismatch, func(r *agentpb.CopyFileRequest) { r.FileMode |= 0o111 }),
		accountFile("token of another user", "token", []byte(jwt), podpolicy.FileMismatch, func(r *agentpb.CopyFileRequest) { r.Uid = 5 }),
		accountFile("token from its middle", "token", []byte(jwt), podpolicy.FileMismatch, func(r *agentpb.CopyFileRequest) { r.Offset = 3 }),
		accountFile("token that is a link", "token", []byte("/etc/passwd"), podpolicy.LinkDenied, func(r *agentpb.CopyFileRequest) { r.FileMode = 0o120777 }),
		outsideFolder(),
		accountFile("authorities with a key among them", "ca.crt", []byte(ca+"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"), podpolicy.FileMismatch, nil),
		accountFile("authorities that are none", "ca.crt", []byte("none\n"+ca), podpolicy.FileMismatch, nil),
		accountFile("more authorities than anybody has", "ca.crt", []byte(strings.Repeat(ca, 300)), podpolicy.FileMismatch, nil),
		accountFile("namespace with a path in it", "namespace", []byte("../kube-system"), podpolicy.FileMismatch, nil),
	}
}

// ofServices are variables that no kubelet sets.
func ofServices() []Attack {
	variable := func(name, text, about string) Attack {
		return Attack{"create a container: " + name, podpolicy.EnvUnexpected, "env[" + about, creating(func(r *agentpb.CreateContainerRequest) {
			r.OCI.Process.Env = append(r.OCI.Process.Env, text)
		})}
	}
	return []Attack{
		variable("a service's variable that is a path", "DB_SERVICE_HOST=/tmp/evil.so", "DB_SERVICE_HOST"),
		variable("a service on the container's own loopback", "DB_SERVICE_HOST=127.0.0.1", "DB_SERVICE_HOST"),
		variable("a service's port that is none", "DB_SERVICE_PORT=70000", "DB_SERVICE_PORT"),
		variable("a service's port with words behind it", "DB_SERVICE_PORT=80 --proxy=evil", "DB_SERVICE_PORT"),
		variable("a service's URL of another scheme", "DB_PORT=file:///etc/passwd", "DB_PORT"),
		variable("a service's name in small letters", "db_service_host=10.0.0.1", "db_service_host"),
		variable("a loader's variable that looks like a service's", "LD_PRELOAD_SERVICE_HOST=10.0.0.1", "LD_PRELOAD_SERVICE_HOST"),
		variable("a service's value of many bytes", "DB_SERVICE_HOST="+strings.Repeat("1", 4<<10), "DB_SERVICE_HOST"),
	}
}

// ofPod are parts of a container that a kubelet makes.
func ofPod() []Attack {
	change := func(name string, reason denial.Reason, claim string, f func(*agentpb.CreateContainerRequest)) Attack {
		return Attack{"create a container: " + name, reason, claim, creating(f)}
	}
	mount := func(name, destination, source, kind string) Attack {
		return change(name, podpolicy.MountUnexpected, "mounts["+destination+"]", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: destination, Source: source, Type: kind, Options: []string{"rbind", "rw"}})
		})
	}
	return []Attack{
		mount("shared memory from elsewhere", "/dev/shm", "/run", "bind"),
		mount("a larger shared memory", "/dev/shm", "shm", "tmpfs"),
		mount("hosts from elsewhere", "/etc/hosts", podpolicy.SharedDir+"/hosts", "bind"),
		mount("name servers from elsewhere", "/etc/resolv.conf", podpolicy.SharedDir+"/resolv.conf", "bind"),
		mount("a termination log that is the guest's folder", "/dev/termination-log", "/etc", "bind"),
		mount("a second place for the service account", "/run/secrets", podpolicy.SharedDir+"/account", "bind"),
		change("the service account's folder, writable", podpolicy.MountMismatch, "mounts["+podpolicy.ServiceAccountDir, func(r *agentpb.CreateContainerRequest) {
			for _, m := range r.OCI.Mounts {
				if m.Destination != podpolicy.ServiceAccountDir {
					continue
				}
				for i, o := range m.Options {
					if o == "ro" {
						m.Options[i] = "rw"
					}
				}
			}
		}),
		change("the processes of others", podpolicy.UnexpectedField, "sandbox_pidns", func(r *agentpb.CreateContainerRequest) { r.SandboxPidns = !r.SandboxPidns }),
		change("the pause container", podpolicy.ContainerUndeclared, "containers[", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Annotations[podpolicy.AnnotationName] = "POD"
		}),
	}
}

// ProbeCommand begins the name of every attack that needs a pod with a probe.
const ProbeCommand = "exec: a probe's command "

// ofProbes are what a kubelet asks a running container to do, and a little more.
func ofProbes() []Attack {
	probe := func(name string, change func(*agentpb.ExecProcessRequest)) Attack {
		return Attack{ProbeCommand + name, podpolicy.ExecDenied, ".exec", func(ctx context.Context, t *Target) error {
			c, id := t.app()
			list := c.Policy().Exec
			if len(list) == 0 || list[0].Any {
				return errNothingToAttack
			}
			r := c.Exec(id, "probe", slices.Clone(list[0].Args), false)
			change(r)
			_, err := t.Agent.ExecProcess(ctx, r)
			return err
		}}
	}
	other := func(name string, reason denial.Reason, claim string, change func(*agentpb.ExecProcessRequest)) Attack {
		a := probe(name, change)
		a.Reason, a.Claim = reason, claim
		return a
	}
	return []Attack{
		probe("with an argument more", func(r *agentpb.ExecProcessRequest) { r.Process.Args = append(r.Process.Args, "--evil") }),
		probe("with an argument less", func(r *agentpb.ExecProcessRequest) { r.Process.Args = r.Process.Args[:len(r.Process.Args)-1] }),
		probe("with a terminal", func(r *agentpb.ExecProcessRequest) { r.Process.Terminal = true }),
		probe("joined to one text", func(r *agentpb.ExecProcessRequest) { r.Process.Args = []string{strings.Join(r.Process.Args, " ")} }),
		other("of another user", podpolicy.UserMismatch, "user.uid", func(r *agentpb.ExecProcessRequest) { r.Process.User.UID += 5 }),
		other("with a variable more", podpolicy.EnvUnexpected, "env[LD_PRELOAD]", func(r *agentpb.ExecProcessRequest) { r.Process.Env = append(r.Process.Env, "LD_PRELOAD=/tmp/evil.so") }),
		other("with all capabilities", podpolicy.PrivilegeMismatch, "capabilities", func(r *agentpb.ExecProcessRequest) { r.Process.Capabilities.Bounding = podpolicy.AllCapabilities() }),
		other("in another folder", podpolicy.ArgsMismatch, ".cwd", func(r *agentpb.ExecProcessRequest) { r.Process.Cwd = "/proc/1/root" }),
		{"an ephemeral container", podpolicy.ContainerUndeclared, "containers[debugger]", func(ctx context.Context, t *Target) error {
			c, _ := t.app()
			r := c.Create("hostile6", t.SandboxID)
			r.OCI.Annotations[podpolicy.AnnotationName] = "debugger"
			_, err := t.Agent.CreateContainer(ctx, r)
			return err
		}},
	}
}
