package flow

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// hash covers what instances at rest depend on: names, order, kinds, the pivot, and the types that travel.
// Timeouts and retries are left out: they may be tuned under running instances.
func hash(g *Graph) string {
	h := sha256.New()
	write(h, g.Root)
	if g.Cancel != nil {
		write(h, g.Cancel)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func write(w io.Writer, n *Node) {
	undo := ""
	if n.Undo != nil {
		undo = "undo:" + n.Undo.Sends
	}
	fmt.Fprintf(w, "%s %q %t %q %q %q [", n.Kind, n.Name, n.Pivot, n.Sends, n.Gets, undo)
	for _, k := range n.Kids {
		write(w, k)
	}
	io.WriteString(w, "]")
}
