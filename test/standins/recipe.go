package main

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const stdPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// standin is one image: its name, what makes it and how it starts.
type standin struct {
	registry, repo, tag string

	base      bool     // on top of the debian layer
	packages  []string // Debian packages whose programs it holds
	program   string   // program of ours below test/standins/cmd, put at /<as>
	as        string
	own       func(tree) // files of ours
	bulk      int        // bytes of incompressible filling
	docker    bool       // Docker's media types in place of OCI's
	multiArch bool       // amd64 and arm64; only images without Debian packages
	config    v1.Config
}

// ownRegistry is where images of ours pretend to come from. The name cannot
// exist (RFC 2606); the mirror answers for it.
const ownRegistry = "registry.example"

// standins are the images of shared/manifests and our own; docs/standins.md
// says how each differs from the image whose name it bears.
var standins = []*standin{
	{registry: "docker.io", repo: "library/debian", tag: "latest", base: true,
		config: v1.Config{Env: []string{stdPath}, Cmd: []string{"bash"}}},
	{registry: "docker.io", repo: "library/busybox", tag: "latest", own: withBusybox, packages: []string{"busybox-static"},
		config: v1.Config{Env: []string{stdPath}, Cmd: []string{"sh"}}},
	{registry: "registry.k8s.io", repo: "busybox", tag: "1.27.2", own: withBusybox, packages: []string{"busybox-static"}, docker: true,
		config: v1.Config{Env: []string{stdPath}, Cmd: []string{"sh"}}},
	nginx("latest", false), nginx("1.29", false), nginx("1.14.2", true),
	{registry: "docker.io", repo: "library/redis", tag: "latest", base: true,
		packages: []string{"redis-server", "redis-tools", "util-linux"}, own: withRedis,
		config: v1.Config{
			Env: []string{stdPath}, Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"redis-server"},
			ExposedPorts: ports("6379/tcp"), Volumes: ports("/data"), WorkingDir: "/data",
		}},
	{registry: "docker.io", repo: "polinux/stress", tag: "latest", base: true, packages: []string{"stress"}, own: withStress,
		config: v1.Config{Env: []string{stdPath}, Cmd: []string{"/usr/local/bin/stress"}}},
	{registry: "gcr.io", repo: "google-samples/hello-app", tag: "2.0", packages: []string{"busybox-static"}, own: withBusybox,
		program: "helloapp", as: "hello-app",
		config: v1.Config{Env: []string{stdPath, "PORT=8080"}, Cmd: []string{"./hello-app"}, WorkingDir: "/"}},
	{registry: "docker.io", repo: "hashicorp/http-echo", tag: "1.0", program: "httpecho", as: "http-echo", own: withNonroot, multiArch: true,
		config: v1.Config{
			Env: []string{stdPath, "ECHO_TEXT=hello-world"}, Entrypoint: []string{"/http-echo"},
			User: "65532", WorkingDir: "/home/nonroot", ExposedPorts: ports("5678/tcp"),
		}},
	{registry: ownRegistry, repo: "coffer/demo", tag: "plain", program: "demoapp", as: "demo", own: withNonroot, bulk: 1 << 20, multiArch: true,
		config: v1.Config{Env: []string{stdPath}, Entrypoint: []string{"/demo"}, User: "nonroot", WorkingDir: "/"}},
	// The benchmark's image: about 10 MB to pull (docs/performance.md).
	{registry: ownRegistry, repo: "coffer/bench", tag: "plain", program: "demoapp", as: "demo", own: withNonroot, bulk: 15 << 19,
		config: v1.Config{Env: []string{stdPath}, Entrypoint: []string{"/demo"}, User: "nonroot", WorkingDir: "/"}},
}

func nginx(tag string, docker bool) *standin {
	return &standin{
		registry: "docker.io", repo: "library/nginx", tag: tag, docker: docker,
		base: true, packages: []string{"nginx", "nginx-common"}, own: withNginx,
		config: v1.Config{
			Env: []string{stdPath}, Entrypoint: []string{"/docker-entrypoint.sh"}, Cmd: []string{"nginx", "-g", "daemon off;"},
			ExposedPorts: ports("80/tcp"), StopSignal: "SIGQUIT",
		},
	}
}

func ports(p string) map[string]struct{} { return map[string]struct{}{p: {}} }

// basePackages make the debian layer: what a shell script needs.
var basePackages = []string{"base-files", "bash", "coreutils", "dash", "findutils", "grep", "sed"}
