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
	criType        = "io.kubernetes.cri.container-type"
	criSandbox     = "io.kubernetes.cri.sandbox-id"
	criName        = "io.kubernetes.cri.container-name"
	criPod         = "io.kubernetes.cri.sandbox-name"
	criNamespace   = "io.kubernetes.cri.sandbox-namespace"
	criMemory      = "io.kubernetes.cri.sandbox-memory"
	criCPUQuota    = "io.kubernetes.cri.sandbox-cpu-quota"
	criCPUPeriod   = "io.kubernetes.cri.sandbox-cpu-period"
	crioType       = "io.kubernetes.cri-o.ContainerType"
	crioSandbox    = "io.kubernetes.cri-o.SandboxID"
	crioName       = "io.kubernetes.cri-o.ContainerName"
	crioLegacyName = "io.kubernetes.container.name" // set by CRI-O's older releases
	crioPod        = "io.kubernetes.pod.name"
	crioNamespace  = "io.kubernetes.pod.namespace"
	typeSandbox    = "sandbox"
	typeContainer  = "container"
	maxSpec        = 16 << 20
	specFile       = "config.json"
)

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

// role says what a bundle is: the sandbox of a pod, or a container in one.
func role(s *specs.Spec, id string) (sandboxID string, isSandbox bool, err error) {
	a := s.Annotations
	typ, sandbox := a[criType], a[criSandbox]
	if typ == "" {
		typ, sandbox = a[crioType], a[crioSandbox]
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

func containerName(s *specs.Spec) string {
	if n := s.Annotations[criName]; n != "" {
		return n
	}
	if n := s.Annotations[crioName]; n != "" {
		return n
	}
	return s.Annotations[crioLegacyName]
}
