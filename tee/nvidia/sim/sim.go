// Package sim plays an NVIDIA GPU for coffer-simhw: a vendor and one device with
// chains of the real shape under a root made on this machine, SPDM reports of the
// real format, and what the vendor would publish: revocation lists and reference
// manifests (tee/nvidia/SPEC.md). There is no device; firmware and measurements
// are made up, and the evidence says so.
//
// Invariants: no key of it is NVIDIA's; nothing is published under a name of
// NVIDIA's; every certificate carries the mark of api/simhw; only coffer-simhw and tests
// link it.
//
// Trust zone: none. Whoever owns the machine owns the keys.
package sim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia"
)

// What the played device runs; the manifests are for these versions.
const (
	driverVersion = "1.0"
	vbiosVersion  = "00.00.00.00.01"
	project       = "0"
	projectSKU    = "0"
	chipSKU       = "0"
	measurements  = 64
	listLife      = 30 * 24 * time.Hour
)

// Opaque fields of a report by their numbers.
const (
	fieldDriver     = 3
	fieldVBIOS      = 6
	fieldProject    = 15
	fieldProjectSKU = 17
	fieldChipSKU    = 18
	fieldFWID       = 20
)

// GPU is one device with its vendor.
type GPU struct {
	root, identity, provisioner, device, leaf *holder
	rimCA, rimSigner                          *holder
}

// holders names the keys as Encode writes them.
func (g *GPU) holders() map[string]**holder {
	return map[string]**holder{
		"root": &g.root, "identity": &g.identity, "provisioner": &g.provisioner, "device": &g.device, "leaf": &g.leaf,
		"rim-ca": &g.rimCA, "rim-signer": &g.rimSigner,
	}
}

// New makes a vendor with a device.
func New(now time.Time) (*GPU, error) {
	g := new(GPU)
	if err := g.provision(now); err != nil {
		return nil, fmt.Errorf("making a simulated GPU: %w", err)
	}
	return g, nil
}

type stored struct {
	Key  []byte `json:"key"`         // PKCS #8
	Cert []byte `json:"certificate"` // DER
}

// Encode gives all keys and certificates, for a file that only its owner can read.
func (g *GPU) Encode() ([]byte, error) {
	out := map[string]stored{}
	for name, h := range g.holders() {
		key, err := x509.MarshalPKCS8PrivateKey((*h).Key)
		if err != nil {
			return nil, err
		}
		out[name] = stored{key, (*h).Cert.Raw}
	}
	return json.Marshal(out)
}

// Load reads what Encode wrote.
func Load(b []byte) (*GPU, error) {
	var in map[string]stored
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("simulated GPU: %w", err)
	}
	g := new(GPU)
	for name, to := range g.holders() {
		key, err := x509.ParsePKCS8PrivateKey(in[name].Key)
		if err != nil {
			return nil, fmt.Errorf("simulated GPU: key %s: %w", name, err)
		}
		cert, err := x509.ParseCertificate(in[name].Cert)
		if err != nil {
			return nil, fmt.Errorf("simulated GPU: certificate %s: %w", name, err)
		}
		k, ok := key.(*ecdsa.PrivateKey)
		if !ok || !k.PublicKey.Equal(cert.PublicKey) {
			return nil, fmt.Errorf("simulated GPU: %s: key and certificate do not belong together", name)
		}
		*to = &holder{cert, k}
	}
	return g, nil
}

// Root anchors the device's evidence and its manifests.
func (g *GPU) Root() *x509.Certificate { return g.root.Cert }

func firmwareID() []byte {
	h := sha512.Sum384([]byte("coffer simulated GPU firmware"))
	return h[:]
}

// measured is the measurement of a report index, from 1.
func measured(index int) []byte {
	h := sha512.Sum384(fmt.Append(nil, "coffer simulated GPU measurement ", index))
	return h[:]
}

// UUID names the device.
func (g *GPU) UUID() string {
	h := sha256.Sum256(g.device.Cert.RawSubjectPublicKeyInfo)
	return "GPU-simulated-" + hex.EncodeToString(h[:8])
}

// Evidence gives the evidence JSON for a nonce, with the simulation note.
func (g *GPU) Evidence(nonce []byte, note string) ([]byte, error) {
	if len(nonce) != nvidia.NonceSize {
		return nil, fmt.Errorf("simulated GPU: a nonce of %d bytes, not %d", len(nonce), nvidia.NonceSize)
	}
	if note == "" {
		return nil, errors.New("simulated GPU: no simulation note")
	}
	all := map[int][]byte{}
	for i := 1; i <= measurements; i++ {
		all[i] = measured(i)
	}
	text := func(s string) []byte { return append([]byte(s), 0) }
	report, err := Sign(g.leaf.Key, Messages(nonce, all, []Field{
		{fieldVBIOS, []byte{0, 0, 0, 0, 1, 0, 0, 0}}, {fieldProject, text(project)}, {fieldProjectSKU, text(projectSKU)}, {fieldChipSKU, text(chipSKU)},
		{fieldDriver, text(driverVersion)}, {fieldFWID, firmwareID()},
	}))
	if err != nil {
		return nil, fmt.Errorf("simulated GPU: %w", err)
	}
	var chain bytes.Buffer
	for _, h := range []*holder{g.leaf, g.device, g.provisioner, g.identity, g.root} {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: h.Cert.Raw}); err != nil {
			return nil, err
		}
	}
	return json.Marshal(nvidia.Evidence{Devices: []nvidia.Device{nvidia.NewDevice("HOPPER", g.UUID(), report, chain.Bytes())}, Simulation: note})
}

// Collateral gives what the vendor would publish: revocation lists, and a manifest
// each for driver and VBIOS.
func (g *GPU) Collateral(now time.Time) ([]*collateral.Item, error) {
	base := nvidia.SimulatedOrigin(g.root.Cert)
	var out []*collateral.Item
	for _, l := range []struct {
		path   string
		issuer *holder
	}{{listRoot, g.root}, {listIdentity, g.identity}, {listRIM, g.rimCA}} {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(now.Unix()), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(listLife), SignatureAlgorithm: x509.ECDSAWithSHA384,
		}, l.issuer.Cert, l.issuer.Key)
		if err != nil {
			return nil, fmt.Errorf("simulated GPU: revocation list: %w", err)
		}
		out = append(out, &collateral.Item{Origin: base + l.path, Body: der, Fetched: now})
	}
	// The two manifests share the measurements between them.
	driver, vbios := map[int][][]byte{}, map[int][][]byte{}
	for i := range measurements {
		if i%2 == 0 {
			driver[i] = [][]byte{measured(i + 1)}
		} else {
			vbios[i] = [][]byte{measured(i + 1)}
		}
	}
	chain := []*x509.Certificate{g.rimSigner.Cert, g.rimCA.Cert, g.root.Cert}
	for _, m := range []struct {
		id, version string
		golden      map[int][][]byte
	}{
		{"NV_GPU_DRIVER_" + model + "_" + driverVersion, driverVersion, driver},
		{"NV_GPU_VBIOS_" + project + "_" + projectSKU + "_" + chipSKU + "_0000000001", vbiosVersion, vbios},
	} {
		b, err := Manifest(g.rimSigner.Key, chain, model, m.version, m.golden)
		if err != nil {
			return nil, fmt.Errorf("simulated GPU: manifest: %w", err)
		}
		out = append(out, &collateral.Item{Origin: base + "/v1/rim/" + m.id, Body: b, Fetched: now})
	}
	return out, nil
}
