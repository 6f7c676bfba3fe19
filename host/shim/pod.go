package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/host/cdi"
	"github.com/cofferproject/coffer/host/podnet"
	"github.com/cofferproject/coffer/host/sandbox"
)

// Deadlines of calls to the guest: it is not the host's, and may not answer.
const (
	callTimeout   = 30 * time.Second
	startTimeout  = 70 * time.Second // the guest takes up to 30 s for a start, to 60 s for an exec's
	bootTimeout   = 120 * time.Second
	createTimeout = 20 * time.Minute // CreateContainer pulls the image
)

// pod is the running TEE.
type pod struct {
	id     string
	dir    string // the run directory
	config *Config
	policy *podpolicy.Policy
	vm     sandbox.Sandbox
	pid    uint32
	log    *slog.Logger
	// devices are those that the VM was started with.
	devices     cdi.Devices
	deviceNames []cdi.Name // what annotations or the kubelet call them

	client *ttrpc.Client
	agent  agentpb.AgentServiceService

	mu     sync.Mutex
	copied map[string]bool // what the guest has of volumes (delivery.go)
	// account is what the cluster gives the pod for its API; nil: nothing yet.
	account *account

	silent   atomic.Bool   // the guest did not tell its statistics in time, and still does not
	givenUp  atomic.Bool   // the TEE is being ended, for its guest does not end a container
	flushing sync.Once     // the guest is told once to write out its volumes
	done     chan struct{} // closed when the TEE has ended
	cgroup   *cgroup
	ports    *podnet.Forwarder // nil: none
}

// policyOf reads the pod policy from the pod's initdata annotation.
func policyOf(annotations map[string]string) (*podpolicy.Policy, []byte, error) {
	text := annotations[initdata.AnnotationKey]
	if text == "" {
		return nil, nil, fmt.Errorf("the pod has no annotation %s, so its guest would start nothing: seal it with coffer seal, and let containerd pass the annotation on (pod_annotations of the runtime handler)", initdata.AnnotationKey)
	}
	plain, err := initdata.DecodeAnnotation(text)
	if err != nil {
		return nil, nil, fmt.Errorf("annotation %s: %w", initdata.AnnotationKey, err)
	}
	doc, err := initdata.Parse(plain)
	if err != nil {
		return nil, nil, fmt.Errorf("annotation %s: %w", initdata.AnnotationKey, err)
	}
	raw, ok := doc.Data[podpolicy.DataKey]
	if !ok {
		return nil, nil, fmt.Errorf("annotation %s: no %s: Coffer's guest starts nothing without a pod policy", initdata.AnnotationKey, podpolicy.DataKey)
	}
	p, err := podpolicy.Parse([]byte(raw))
	if err != nil {
		return nil, nil, fmt.Errorf("annotation %s: %s: %w", initdata.AnnotationKey, podpolicy.DataKey, err)
	}
	return p, plain, nil
}

// sealedFor refuses a pod that was sealed for another kind of TEE, whose guest would halt.
func sealedFor(tee launch.TEE, document []byte) error {
	d, err := initdata.Parse(document)
	if err == nil {
		err = d.CheckAlgorithm(tee.Wire())
	}
	if err != nil {
		return fmt.Errorf("annotation %s: %w: this node would run the pod in %s, so seal it for that (coffer seal --tee %[3]s)", initdata.AnnotationKey, err, tee)
	}
	return nil
}

// launchPod starts a pod's TEE and prepares it for containers. On error nothing is left
// behind.
func launchPod(ctx context.Context, id string, c *Config, s *podSpec, log *slog.Logger) (_ *pod, err error) {
	if err := checkAnnotations(s.annotations); err != nil {
		return nil, err
	}
	policy, document, err := policyOf(s.annotations)
	if err != nil {
		return nil, err
	}
	mib, vcpus, err := size(c, s.annotations, s.limits)
	if err != nil {
		return nil, fmt.Errorf("sizing the VM: %w", err)
	}
	h, err := newHolder(c, mib, vcpus)
	if err != nil {
		return nil, err
	}
	if err := sealedFor(h.spec.TEE, document); err != nil {
		return nil, err
	}
	h.spec.Initdata = document
	defer h.close()
	if err := h.addDevices(ctx, c, document, s); err != nil {
		return nil, err
	}
	if err := h.addDisks(c, policy, s.uid); err != nil {
		return nil, err
	}
	if err := h.spec.Validate(); err != nil {
		return nil, err
	}
	p := &pod{
		id: id, config: c, policy: policy, log: log, copied: map[string]bool{},
		devices: h.devices, deviceNames: h.deviceNames,
	}
	if p.dir, err = makeRunDir(c.RunDir, id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.flushing.Do(func() {}) // no container was there to write anything
			err = errors.Join(err, p.destroy())
		}
	}()
	network := &podnet.Network{}
	if s.netns != "" {
		if network, err = h.connect(s.netns); err != nil {
			return nil, err
		}
	}
	if err := p.launch(ctx, h, network); err != nil {
		return nil, err
	}
	if !c.NoPodCgroup {
		if p.cgroup, err = joinCgroup(cgroupRoot, s.cgroup, slices.Collect(maps.Values(p.vm.PIDs()))); err != nil {
			return nil, p.orEnd(err)
		}
	}
	if err := p.prepare(ctx, s, network); err != nil {
		return nil, p.orEnd(err)
	}
	p.forwardPorts(s.netns, network)
	return p, nil
}

// forwardPorts has port forwarding reach the guest. A pod works without it, on a node
// whose kernel is too old, for one.
func (p *pod) forwardPorts(ns string, n *podnet.Network) {
	var addresses []netip.Addr
	for _, i := range n.Interfaces {
		for _, a := range i.Addresses {
			addresses = append(addresses, a.Addr())
		}
	}
	if len(addresses) == 0 {
		return
	}
	var err error
	if p.ports, err = podnet.Forward(ns, addresses, p.log); err != nil {
		p.log.Warn("port forwarding will not reach this pod", "error", err)
	}
}

// orEnd gives, in place of an error, how the TEE has ended, if it has: that is why.
func (p *pod) orEnd(err error) error {
	select {
	case <-p.done:
		return p.endError()
	case <-time.After(time.Second):
		return err
	}
}

// prepare makes the guest ready for its first container.
func (p *pod) prepare(ctx context.Context, s *podSpec, n *podnet.Network) error {
	began := time.Now()
	if err := p.dial(ctx); err != nil {
		return err
	}
	p.log.Info("guest agent answered", "duration", time.Since(began))
	for _, i := range n.Interfaces {
		in := &agentpb.Interface{Name: i.Name, HwAddr: i.MAC, Mtu: uint64(i.MTU)}
		for _, a := range i.Addresses {
			family := agentpb.IPFamily_v4
			if a.Addr().Is6() {
				family = agentpb.IPFamily_v6
			}
			in.IPAddresses = append(in.IPAddresses, &agentpb.IPAddress{Family: family, Address: a.Addr().String(), Mask: fmt.Sprint(a.Bits())})
		}
		if err := call(ctx, callTimeout, p.agent.UpdateInterface, &agentpb.UpdateInterfaceRequest{Interface: in}); err != nil {
			return fmt.Errorf("giving the guest its interface %s: %w", i.Name, err)
		}
	}
	if len(n.Routes) > 0 {
		if err := call(ctx, callTimeout, p.agent.UpdateRoutes, &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: n.Routes}}); err != nil {
			return fmt.Errorf("giving the guest its routes: %w", err)
		}
	}
	if len(n.Neighbors) > 0 {
		if err := call(ctx, callTimeout, p.agent.AddARPNeighbors, &agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{ARPNeighbors: n.Neighbors}}); err != nil {
			return fmt.Errorf("giving the guest its neighbours: %w", err)
		}
	}
	dns, err := resolvConf(s, p.policy)
	if err != nil {
		return err
	}
	if err := call(ctx, callTimeout, p.agent.CreateSandbox, p.policy.CreateSandboxRequest(p.id, dns)); err != nil {
		return fmt.Errorf("preparing the guest: %w", err)
	}
	return nil
}

// resolvConf gives the lines of the pod's resolv.conf that a guest takes.
func resolvConf(s *podSpec, policy *podpolicy.Policy) ([]string, error) {
	if policy.Sandbox.ResolvConf != "host" {
		return nil, nil
	}
	text := s.resolv
	if s.resolvFile != "" {
		b, err := readBounded(s.resolvFile, maxResolvConf)
		if err != nil {
			return nil, fmt.Errorf("reading the pod's resolv.conf: %w", err)
		}
		text = string(b)
	}
	var out []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || !slices.Contains([]string{"nameserver", "search", "options"}, words[0]) {
			continue
		}
		if words[0] == "search" {
			words = slices.DeleteFunc(words, func(w string) bool { return w == "." })
			if len(words) < 2 {
				continue
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	return out, nil
}

const maxResolvConf = 64 << 10

// dial connects to the guest agent and waits for its first answer.
func (p *pod) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	conn, err := p.vm.Dial(ctx, byte(channel.KindTTRPC))
	if err == nil {
		err = p.health(ctx, conn)
	}
	if err != nil {
		return fmt.Errorf("waiting for the guest agent: %w", err)
	}
	return nil
}

func (p *pod) health(ctx context.Context, conn net.Conn) error {
	p.client = ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(plainErrors))
	p.agent = agentpb.NewAgentServiceClient(p.client)
	_, err := agentpb.NewHealthClient(p.client).Check(ctx, &agentpb.CheckRequest{})
	return err
}

// endError says how the TEE ended, console and all.
func (p *pod) endError() error {
	e := p.vm.Wait()
	msg := "the TEE ended: " + e.Reason
	if e.Detail != "" {
		msg += ": " + e.Detail
	}
	if e.Console != "" {
		msg += "\nconsole, last lines:\n" + e.Console
	}
	return errors.New(msg)
}

// launch starts the TEE on the network, whose taps are the driver's from then on.
func (p *pod) launch(ctx context.Context, h *holder, n *podnet.Network) error {
	driver, err := h.driver(p.config, n)
	if err != nil {
		n.Close()
		return err
	}
	vm, err := driver.Launch(ctx, p.id, p.dir, h.spec, func(m string) { p.log.Info("launching", "step", m) })
	if err != nil {
		var c interface{ ConsoleTail() string }
		if errors.As(err, &c) && c.ConsoleTail() != "" {
			err = fmt.Errorf("%w\nconsole, last lines:\n%s", err, c.ConsoleTail())
		}
		return fmt.Errorf("launching the TEE: %w", err)
	}
	p.vm, p.done = vm, make(chan struct{})
	go func() { vm.Wait(); close(p.done) }()
	p.pid = uint32(vm.PIDs()[h.process])
	return nil
}

// flush has the guest write out its volumes on disks, if it has any, and waits for it,
// whoever asked first: nobody may end the TEE meanwhile. A guest that reads nothing does
// not hold it up for longer.
func (p *pod) flush() {
	p.flushing.Do(func() {
		if len(p.policy.Disks()) == 0 {
			return
		}
		select {
		case <-p.done: // it has ended by itself
			return
		default:
		}
		late := time.NewTimer(flushTime + time.Second)
		defer late.Stop()
		var err error
		select {
		case err = <-ask(context.Background(), flushTime, p.agent.DestroySandbox, &agentpb.DestroySandboxRequest{}):
		case <-late.C:
			err = context.DeadlineExceeded
		case <-p.done:
			return
		}
		if err != nil {
			p.log.Warn("the guest may not have written all of its volumes", "error", err)
		}
	})
}

// flushTime bounds what a guest's volumes take to be written out: it is within what a
// kubelet waits for a sandbox's end (2 minutes).
const flushTime = 110 * time.Second

// destroy ends the TEE and removes what launchPod made.
func (p *pod) destroy() error {
	var errs []error
	if p.ports != nil {
		p.ports.Close()
	}
	if p.client != nil {
		p.flush()
	}
	if p.vm != nil {
		errs = append(errs, p.vm.Destroy())
	}
	if p.client != nil { // now nothing that it has yet to send holds up its closing
		_ = p.client.Close()
	}
	if p.cgroup != nil {
		errs = append(errs, p.cgroup.remove())
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("removing the run directory: %w", err))
	}
	return errors.Join(errs...)
}

// makeRunDir makes the private folder of one pod.
func makeRunDir(root, id string) (string, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", fmt.Errorf("making the run directory: %w", err)
	}
	dir := filepath.Join(root, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the run directory: %w", err)
	}
	return dir, nil
}
