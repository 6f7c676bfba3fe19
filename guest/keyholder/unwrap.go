package keyholder

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/ocicrypt"
)

// maxUnwrapInput bounds the key provider's JSON, in bytes.
const maxUnwrapInput = 1 << 20

// gate remembers which annotation packets are in the manifests that were
// presented to it; no other packet is opened. Each parser's connection has its
// own, so that a parser that an image has taken over cannot ask for the keys of
// the pod's other images. The server's own gate knows all of them, for the
// published socket, which no parser can open.
type gate struct {
	mu      sync.Mutex
	packets map[[32]byte]bool
}

func newGate() *gate { return &gate{packets: map[[32]byte]bool{}} }

func (g *gate) add(packet []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.packets[sha256.Sum256(packet)] = true
}

func (g *gate) has(packet []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.packets[sha256.Sum256(packet)]
}

// unwrap opens a packet that the gate lets through: asks the trustee for the key
// that it names.
func (s *Server) unwrap(ctx context.Context, g *gate, packet []byte) ([]byte, error) {
	if !g.has(packet) {
		return nil, &denial.Denial{
			Reason: ReasonNotInPolicy, Component: Component, Claim: "annotation packet",
			Expected: "a packet of a layer in an image of the pod policy", Source: "initdata",
		}
	}
	p, err := ocicrypt.ParsePacket(packet)
	if err != nil {
		return nil, err
	}
	if p.Provider != "kbs" {
		return nil, fmt.Errorf("annotation packet: provider %.40q is not supported, only kbs", p.Provider)
	}
	kek, err := s.resource(ctx, p.KID)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	return p.Open(kek)
}

// serveControl takes hand-overs from the agent until it is gone.
func (s *Server) serveControl(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.cfg.Control.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		digest, conn, err := layerkey.Accept(s.cfg.Control)
		if errors.Is(err, io.EOF) {
			return errors.New("the agent closed the control connection")
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			s.serveLayerKeys(ctx, conn, digest)
		})
	}
}

// serveLayerKeys answers one parser.
func (s *Server) serveLayerKeys(ctx context.Context, conn net.Conn, manifestDigest string) {
	own, opened := newGate(), false
	for {
		op, body, err := layerkey.ReadMessage(conn)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.log.Warn("layer key connection broke", "error", err)
			}
			return
		}
		var out []byte
		switch op {
		case layerkey.OpManifest:
			err = s.presentManifest(own, body, manifestDigest)
		case layerkey.OpPacket:
			if opened {
				err = &denial.Denial{
					Reason: ReasonNotInPolicy, Component: Component, Claim: "annotation packet",
					Expected: "one layer's key for each connection", Source: "key holder",
				}
				break
			}
			out, err = s.unwrap(ctx, own, body)
			opened = err == nil
		default:
			err = fmt.Errorf("unknown operation %#x", op)
		}
		answer := byte(layerkey.AnswerOK)
		if err != nil {
			s.log.Warn("layer key refused", "manifest", manifestDigest, "error", err)
			answer, out = layerkey.AnswerErr, encodeError(err)
		}
		err = layerkey.WriteMessage(conn, answer, out)
		clear(out)
		if err != nil {
			return
		}
	}
}

func encodeError(err error) []byte {
	d, ok := denial.As(err)
	if !ok {
		d = &denial.Denial{Detail: err.Error()}
		var gone *unavailableError
		switch {
		case errors.As(err, &gone) && errors.Is(err, syscall.ECONNREFUSED):
			d.Claim = layerkey.ClaimTrusteeRefused
		case errors.As(err, &gone):
			d.Claim = layerkey.ClaimTrusteeUnavailable
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return []byte("{}")
	}
	return b
}

// presentManifest opens the connection's gate, and the server's, for the packets
// of one image.
func (s *Server) presentManifest(own *gate, raw []byte, want string) error {
	sum := sha256.Sum256(raw)
	got := "sha256:" + hex.EncodeToString(sum[:])
	if got != want || !s.manifests[want] {
		return &denial.Denial{
			Reason: ReasonNotInPolicy, Component: Component, Claim: "image manifest", Measured: got,
			Expected: want + ", named by the pod policy", Source: "initdata",
		}
	}
	doc, err := manifest.Parse(raw, "")
	if err != nil {
		return err
	}
	if doc.Manifest == nil {
		return errors.New("the pod policy names an image index, not a manifest")
	}
	for _, l := range doc.Manifest.Layers {
		if _, ok := l.Annotations[ocicrypt.AnnotationKeys]; !ok {
			continue
		}
		packets, err := ocicrypt.Packets(l.Annotations)
		if err != nil {
			return err
		}
		for _, p := range packets {
			own.add(p)
			s.gate.add(p)
		}
	}
	return nil
}

// parseUnwrapInput gives the annotation packet in the key provider's JSON. Both
// parameter objects must be there, as published.
func parseUnwrapInput(b []byte) ([]byte, error) {
	if len(b) > maxUnwrapInput {
		return nil, fmt.Errorf("key provider input: %d bytes, at most %d", len(b), maxUnwrapInput)
	}
	var in struct {
		Op     string           `json:"op"`
		Wrap   *json.RawMessage `json:"keywrapparams"`
		Unwrap *struct {
			Annotation string `json:"annotation"`
		} `json:"keyunwrapparams"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("key provider input: %w", err)
	}
	if in.Op != "keyunwrap" || in.Wrap == nil || in.Unwrap == nil {
		return nil, errors.New("key provider input: not op keyunwrap with keywrapparams and keyunwrapparams")
	}
	p, err := base64.StdEncoding.DecodeString(in.Unwrap.Annotation)
	if err != nil || len(p) == 0 {
		return nil, errors.New("key provider input: annotation is missing or not base64")
	}
	return p, nil
}

// unwrapOutput writes the result with the bytes as numbers, which the published
// clients require and Go's take too.
func unwrapOutput(opts []byte) []byte {
	b := []byte(`{"keyunwrapresults":{"optsdata":[`)
	for i, v := range opts {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(v), 10)
	}
	return append(b, "]}}"...)
}
