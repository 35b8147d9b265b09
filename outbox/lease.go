package outbox

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// takeoverPoll is how often a relay looks again while shards that it should have are still another's.
const takeoverPoll = 100 * time.Millisecond

// A census is what a renewal found in the database.
type census struct {
	members  []string
	held     map[int]int64 // our leases
	missing  bool          // a shard that should be ours is still another's
	blockade []blockadeRow // in shards that are new to us
}

type blockadeRow struct {
	lane  lane
	shard int
}

// leaseLoop renews the leases, takes its share of the shards and hands over the rest.
func (r *Relay) leaseLoop(ctx context.Context) {
	for first := true; ; {
		began := time.Now()
		r.begin(choreLease)
		c, err := r.renew(ctx, first)
		r.end(choreLease, err)
		if ctx.Err() != nil {
			return
		}
		wait := r.cfg.Lease / 3
		if err != nil {
			r.cfg.Logger.Warn("outbox cannot renew its leases", "error", err)
			wait /= 4
		} else {
			first = false
			if r.apply(c, began) || c.missing {
				wait = min(wait, takeoverPoll)
			}
		}
		r.forget()
		r.leasing.wait(ctx, wait)
	}
}

// fresh reports whether the leases last long enough to publish under them. Both clocks are asked: one goes on when
// the machine sleeps, the other does not jump. The caller holds mu.
func (r *Relay) fresh() bool {
	now := time.Now().Add(r.cfg.Lease / 3)
	return now.Before(r.valid) && now.Round(0).Before(r.valid.Round(0))
}

// renew does in one transaction what there is to do about leases.
func (r *Relay) renew(ctx context.Context, first bool) (c census, err error) {
	release := r.releasable()
	err = r.unit.Do(ctx, func(ctx context.Context) error {
		var err error
		c, err = r.renewIn(ctx, uow.DB(ctx).Statement.ConnPool, first, release)
		return err
	})
	return c, err
}

func (r *Relay) renewIn(ctx context.Context, conn gorm.ConnPool, first bool, release []int64) (c census, err error) {
	x := execer{ctx, conn, r.dialect}
	ttl := r.cfg.Lease.Microseconds()
	if r.dialect.postgres() { // whatever the default is: what another relay commits while we wait has to be seen
		if _, err := x.exec("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"); err != nil {
			return c, err
		}
	}
	if first {
		if err := r.succeed(x); err != nil {
			return c, err
		}
	}
	// Only what is ours is waited for, and in one order; what another one has locked is passed over. So no two relays
	// end in a deadlock, and one that is frozen in the middle of this, with its locks, holds up nobody else.
	if err := r.join(x, ttl); err != nil {
		return c, err
	}
	if c.members, err = x.strings("SELECT owner FROM outbox_member WHERE expires_at > {now} ORDER BY owner"); err != nil {
		return c, err
	}
	if r.dialect.postgres() { // the others lock them in the order of the primary key in any case
		if _, err := r.heldIn(x.ctx, conn, r.dialect.update); err != nil {
			return c, err
		}
	}
	if len(release) > 0 {
		where, args := r.dialect.among("shard", release)
		_, err = x.exec("UPDATE outbox_lease SET owner = '', expires_at = 0 WHERE owner = ? AND "+where,
			append([]any{r.owner}, args...)...)
		if err != nil {
			return c, err
		}
	}
	if _, err = x.exec("UPDATE outbox_lease SET expires_at = {now} + ? WHERE owner = ?", ttl, r.owner); err != nil {
		return c, err
	}
	if err := r.gain(x, ttl, share(c.members, r.owner)); err != nil {
		return c, err
	}
	if c.held, err = x.leases("SELECT shard, epoch FROM outbox_lease WHERE owner = ?", r.owner); err != nil {
		return c, err
	}
	for _, shard := range share(c.members, r.owner) {
		_, ok := c.held[int(shard)]
		c.missing = c.missing || !ok
	}
	c.blockade, err = r.blockades(x, c.held)
	return c, err
}

// join has this relay counted among those that are alive, and forgets those that are not.
func (r *Relay) join(x execer, ttl int64) error {
	n, err := x.exec("UPDATE outbox_member SET expires_at = {now} + ? WHERE owner = ?", ttl, r.owner)
	if err == nil && n == 0 {
		_, err = x.exec("INSERT INTO outbox_member (owner, expires_at) VALUES (?, {now} + "+itoa(ttl)+")", r.owner)
	}
	if err != nil {
		return err
	}
	gone, err := x.strings("SELECT owner FROM outbox_member WHERE expires_at <= {now}" + r.dialect.skip())
	if err != nil {
		return err
	}
	for _, o := range gone {
		if _, err := x.exec("DELETE FROM outbox_member WHERE owner = ?", o); err != nil {
			return err
		}
	}
	return nil
}

// gain takes those of some shards that nobody has.
func (r *Relay) gain(x execer, ttl int64, shards []int64) error {
	where, args := r.dialect.among("shard", shards)
	free, err := x.numbers("SELECT shard FROM outbox_lease WHERE owner <> ? AND (owner = '' OR expires_at <= {now}) AND "+
		where+" ORDER BY shard"+r.dialect.skip(), append([]any{r.owner}, args...)...)
	if err != nil || len(free) == 0 {
		return err
	}
	where, args = r.dialect.among("shard", free)
	_, err = x.exec("UPDATE outbox_lease SET owner = ?, epoch = epoch + 1, expires_at = {now} + ? WHERE "+where,
		append([]any{r.owner, ttl}, args...)...)
	return err
}

// succeed ends the leases of a relay of the same name, which was killed. What it has locked, if it is only frozen, has
// to expire.
func (r *Relay) succeed(x execer) error {
	owners, err := x.strings("SELECT owner FROM outbox_member UNION SELECT owner FROM outbox_lease")
	if err != nil {
		return err
	}
	for _, o := range owners {
		if at := strings.LastIndexByte(o, '#'); at < 0 || o[:at] != r.cfg.Owner {
			continue
		}
		if err := r.depose(x, o); err != nil {
			return err
		}
	}
	return nil
}

// depose ends the membership and the leases of another relay, as far as they are not locked.
func (r *Relay) depose(x execer, owner string) error {
	there, err := x.strings("SELECT owner FROM outbox_member WHERE owner = ?"+r.dialect.skip(), owner)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		if _, err := x.exec("DELETE FROM outbox_member WHERE owner = ?", owner); err != nil {
			return err
		}
	}
	shards, err := x.numbers("SELECT shard FROM outbox_lease WHERE owner = ? ORDER BY shard"+r.dialect.skip(), owner)
	if err != nil || len(shards) == 0 {
		return err
	}
	where, args := r.dialect.among("shard", shards)
	_, err = x.exec("UPDATE outbox_lease SET owner = '', expires_at = 0 WHERE "+where, args...)
	return err
}

// blockades lists the lanes in the retry table whose shard is new to us.
func (r *Relay) blockades(x execer, held map[int]int64) (list []blockadeRow, err error) {
	var gained []int64
	r.mu.Lock()
	for shard, epoch := range held {
		if r.held[shard] != epoch {
			gained = append(gained, int64(shard))
		}
	}
	r.mu.Unlock()
	if len(gained) == 0 {
		return nil, nil
	}
	return x.retrying(gained)
}

// retrying lists the lanes of shards that are in the retry table.
func (x execer) retrying(shards []int64) (list []blockadeRow, err error) {
	where, args := x.dialect.among("shard", shards)
	lone := "CASE WHEN " + x.dialect.same("aggregateid", "''") + " THEN id ELSE '' END"
	// The lengths tell apart what DISTINCT does not on MySQL and MariaDB (see same).
	err = x.query("SELECT DISTINCT shard, topic, aggregateid, "+lone+", length(topic), length(aggregateid), length("+lone+
		") FROM outbox_retry WHERE "+where, args, func(rows *sql.Rows) error {
		var b blockadeRow
		var key, id string
		var lengths [3]int
		if err := rows.Scan(&b.shard, &b.lane.topic, &key, &id, &lengths[0], &lengths[1], &lengths[2]); err != nil {
			return err
		}
		b.lane.key, b.lane.lone = key+id, key == ""
		list = append(list, b)
		return nil
	})
	return list, err
}

// share returns the shards of one of the relays that are alive: every len(members)-th.
func share(members []string, owner string) (shards []int64) {
	rank := slices.Index(members, owner)
	for shard := range int64(Shards) {
		if rank >= 0 && shard%int64(len(members)) == int64(rank) {
			shards = append(shards, shard)
		}
	}
	return shards
}

// apply makes what was committed known to the workers, and reports whether shards are to be handed over.
func (r *Relay) apply(c census, began time.Time) (closing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.valid = began.Add(r.cfg.Lease)
	r.expire()
	r.lacks(c.missing)
	desired := map[int]bool{}
	for _, shard := range share(c.members, r.owner) {
		desired[int(shard)] = true
	}
	for shard := range Shards {
		epoch, held := c.held[shard]
		was, had := r.held[shard]
		if had && (!held || epoch != was) {
			r.lose(shard)
		}
		if held && (!had || epoch != was) || r.closing[shard] && desired[shard] {
			r.rescan = true
		}
		if !r.closing[shard] {
			r.closeAt[shard] = time.Now().Add(r.cfg.Lease)
		}
		r.closing[shard] = held && !desired[shard]
		closing = closing || r.closing[shard]
	}
	if len(c.held) != len(r.held) {
		r.cfg.Logger.Info("outbox shards changed", "owner", r.owner, "shards", len(c.held), "relays", len(c.members))
	}
	r.held = c.held
	for _, b := range c.blockade {
		r.blockade(b.lane, b.shard)
	}
	if len(c.blockade) > 0 {
		r.retrying.set()
	}
	r.purge()
	if r.rescan {
		r.reading.set()
	}
	return closing
}

// lose forgets what is known of a shard that another relay has now.
func (r *Relay) lose(shard int) {
	delete(r.held, shard)
	r.hangUp(1 << shard)
	for l, b := range r.blocked {
		if b.shard == shard {
			delete(r.blocked, l)
		}
	}
	r.barred[shard] = 0
	// What was to move is still in the outbox; it goes on from there, under whoever has the shard.
	r.moves = slices.DeleteFunc(r.moves, func(m move) bool {
		if m.rec.shard != shard {
			return false
		}
		r.flying[shard]--
		r.removed = append(r.removed, m.rec.seq)
		return true
	})
}

// releasable lists the shards that are to be handed over and have nothing under way, or only what does not return,
// which must not hold up the other topics: it is published twice, as if the lease had expired.
func (r *Relay) releasable() (shards []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for shard := range r.held {
		switch {
		case !r.closing[shard] || r.flying[shard] > 0 && !time.Now().After(r.closeAt[shard]):
			continue
		case r.flying[shard] > 0:
			r.hangUp(1 << shard) // before another relay may publish them
		}
		shards = append(shards, int64(shard))
	}
	return shards
}

// handOver wakes the lease loop if a shard can be handed over. The caller holds mu.
func (r *Relay) handOver() {
	for shard := range r.held {
		if r.closing[shard] && r.flying[shard] == 0 {
			r.leasing.set()
			return
		}
	}
}

// release gives all leases back.
func (r *Relay) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Lease)
	defer cancel()
	err := r.unit.Do(ctx, func(ctx context.Context) error {
		x := execer{ctx, uow.DB(ctx).Statement.ConnPool, r.dialect}
		if _, err := x.exec("DELETE FROM outbox_member WHERE owner = ?", r.owner); err != nil { // first, as renewals do
			return err
		}
		_, err := x.exec("UPDATE outbox_lease SET owner = '', expires_at = 0 WHERE owner = ?", r.owner)
		return err
	})
	if err != nil {
		r.cfg.Logger.Warn("outbox cannot give its leases back; they expire", "error", err)
	}
}
