package kube

import (
	"fmt"
	"strings"
	"testing"
)

// secondNetwork is a CNI network beside the cluster's: both families, and the default
// route of IPv6.
const secondNetwork = `{"cniVersion":"1.0.0","name":"second","plugins":[
 {"type":"bridge","bridge":"cni1","isGateway":true,"mtu":1400,
  "ipam":{"type":"host-local","dataDir":"/run/cni-ipam","ranges":[[{"subnet":"10.89.0.0/24"}],[{"subnet":"fd00:89::/64"}]],"routes":[{"dst":"::/0"},{"dst":"198.51.100.0/24"}]}}]}`

// TestSecondCard has pods with two cards, the second one with addresses of both families.
func TestSecondCard(t *testing.T) { withEach(t, testSecondCard) }

func testSecondCard(t *testing.T, h holder) {
	k := cluster
	conf := "$RUN/cni/net.d/20-second.conflist"
	k.must(t, "bash", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; cat > "+conf+".new <<'X'\n"+secondNetwork+"\nX\nmv "+conf+".new "+conf+"; sleep 1")
	defer k.must(t, "bash", "-c", "rm -f "+conf+"; sleep 1")
	path, _ := k.seal(t, h.tee, simple("cards", h.class, "mkdir /www; echo from the guest > /www/index.html; httpd -p '[::]:8080' -h /www; echo serving; sleep 3600"), "--allow-exec")
	k.apply(t, path)
	k.ready(t, "cards")
	k.logs(t, "cards", "serving")
	inside := func(script string) string {
		return k.must(t, "kubectl", "exec", "cards", "--", "sh", "-c", script)
	}
	cards := inside("ip -o addr; ip link show eth1; ip route; ip -6 route")
	for _, want := range []string{"eth0    inet 10.88.0.", "eth1    inet 10.89.0.", "eth1    inet6 fd00:89::", " mtu 1400 ", "198.51.100.0/24 via 10.89.0.1 dev eth1", "default via 10.88.0.1 dev eth0", "default via fd00:89::1 dev eth1"} {
		if !strings.Contains(cards, want) {
			t.Errorf("no %q in the guest:\n%s", want, cards)
		}
	}
	address := func(prefix string) string {
		_, rest, _ := strings.Cut(cards, prefix)
		a, _, _ := strings.Cut(prefix[strings.LastIndexByte(prefix, ' ')+1:]+rest, "/")
		return a
	}
	for name, url := range map[string]string{
		"first card": "http://" + address("eth0    inet 10.88.0.") + ":8080/", "second card": "http://" + address("eth1    inet 10.89.0.") + ":8080/",
		"IPv6": "http://[" + address("eth1    inet6 fd00:89::") + "]:8080/",
	} {
		eventually(t, "an answer by the "+name, func() (bool, string) {
			out, err := k.in("curl", "-sgf", "--max-time", "5", url)
			return err == nil && out == "from the guest\n", fmt.Sprint(url, out, err)
		})
	}
	// And out: to another pod by its addresses on the second bridge.
	k.apply(t, k.file(t, strings.Replace(simple("peer", "none", "mkdir /www; echo from the node > /www/index.html; httpd -f -p '[::]:9090' -h /www"), "  runtimeClassName: none\n", "", 1)))
	k.ready(t, "peer")
	cards = k.must(t, "kubectl", "exec", "peer", "--", "ip", "-o", "addr")
	for _, url := range []string{"http://" + address("eth1    inet 10.89.0.") + ":9090/", "http://[" + address("eth1    inet6 fd00:89::") + "]:9090/"} {
		eventually(t, url+" from the guest", func() (bool, string) {
			out, err := k.in("kubectl", "exec", "cards", "--", "wget", "-qO-", url)
			return err == nil && out == "from the node\n", fmt.Sprint(out, err)
		})
	}
	k.must(t, "kubectl", "delete", "pod", "peer", "--timeout=60s")
	k.must(t, "kubectl", "delete", "pod", "cards", "--timeout=60s")
	k.nothingLeft(t)
}
