package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations of CRI's two implementations that say what a bundle is.
const (
	criType       = "io.kubernetes.cri.container-type"
	criSandbox    = "io.kubernetes.cri.sandbox-id"
	criUID        = "io.kubernetes.cri.sandbox-uid"
	criPod        = "io.kubernetes.cri.sandbox-name"
	criNamespace  = "io.kubernetes.cri.sandbox-namespace"
	criName       = "io.kubernetes.cri.container-name"
	criMemory     = "io.kubernetes.cri.sandbox-memory"
	criCPUQuota   = "io.kubernetes.cri.sandbox-cpu-quota"
	criCPUPeriod  = "io.kubernetes.cri.sandbox-cpu-period"
	crioType      = "io.kubernetes.cri-o.ContainerType"
	crioSandbox   = "io.kubernetes.cri-o.SandboxID"
	crioMetadata  = "io.kubernetes.cri-o.Metadata" // JSON of the CRI's ContainerMetadata
	crioUID       = "io.kubernetes.pod.uid"        // the kubelet's label, as the next three
	crioPod       = "io.kubernetes.pod.name"       //
	crioContainer = "io.kubernetes.container.name" // likewise; a sandbox's is crioInfra
	crioInfra     = "POD"
	crioNamespace = "io.kubernetes.pod.namespace"           //
	crioResources = "io.kubernetes.cri-o.PodLinuxResources" // JSON of the CRI's LinuxContainerResources
	typeSandbox   = "sandbox"
	typeContainer = "container"
	maxSpec       = 16 << 20
	specFile      = "config.json"
)

// byCRIO tells who wrote a bundle that role has let through.
func byCRIO(annotations map[string]string) bool {
	_, ok := annotations[crioType]
	return ok
}

// readSpec reads a bundle's config.json.
func readSpec(bundle string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(bundle, specFile))
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	if len(b) > maxSpec {
		return nil, fmt.Errorf("reading the bundle: %s is longer than %d bytes", specFile, maxSpec)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("reading the bundle: %s: %w", specFile, err)
	}
	return s, nil
}

// role says what a bundle is: the sandbox of a pod, or a container in one. A pod's author
// has a say in a sandbox's annotations: CRI-O writes the pod's own over most of its own,
// and only the labels over those; containerd passes on what its configuration names. So a
// bundle with the annotations of both is refused, and with CRI-O the kubelet's label decides.
func role(s *specs.Spec, id string) (sandboxID string, isSandbox bool, err error) {
	a := s.Annotations
	typ, sandbox := a[criType], a[criSandbox]
	if byCRIO(a) {
		if _, ok := a[criType]; ok {
			return "", false, fmt.Errorf("the bundle has both %s and %s: one of them is the pod's own annotation; take it off the pod", criType, crioType)
		}
		switch a[crioContainer] {
		case "":
			return "", false, fmt.Errorf("the bundle has no label %s: Coffer runs the pods of a kubelet", crioContainer)
		case crioInfra:
			typ = typeSandbox
		default:
			typ, sandbox = typeContainer, a[crioSandbox]
		}
	}
	switch typ {
	case typeSandbox:
		return id, true, nil
	case typeContainer:
		if sandbox == "" {
			return "", false, errors.New("the bundle is a pod's container and does not say of which pod")
		}
		return sandbox, false, nil
	default:
		return "", false, fmt.Errorf("the bundle has no annotation %s: Coffer runs the pods of Kubernetes, not single containers (use coffer run)", criType)
	}
}

// containerName gives the name that the pod's manifest has for a container.
func containerName(s *specs.Spec) (string, error) {
	if !byCRIO(s.Annotations) {
		return s.Annotations[criName], nil
	}
	var m struct{ Name string }
	if err := json.Unmarshal([]byte(s.Annotations[crioMetadata]), &m); err != nil {
		return "", fmt.Errorf("annotation %s: %w", crioMetadata, err)
	}
	return m.Name, nil
}
