package gormstore

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"gorm.io/gorm"
	"gorm.io/gorm/schema"
)

// A plan is the SQL of one row type on one dialect, written once. GORM describes the mapping;
// running its callbacks for every statement would cost about twice the CPU.
type plan struct {
	typ     reflect.Type
	dialect string
	key     *schema.Field
	version *schema.Field
	fields  []*schema.Field // all stored columns, in the order of columns and values

	columns string // quoted, comma-separated
	table   string
	get     string
	delete  string
	update  string
	insert  string // up to VALUES
	onDup   string
}

func newPlan(tx *gorm.DB, model any) (*plan, error) {
	stmt := &gorm.Statement{DB: tx}
	if err := stmt.Parse(model); err != nil {
		return nil, fmt.Errorf("gormstore: %T: %w", model, err)
	}
	s := stmt.Schema
	p := &plan{typ: s.ModelType, dialect: tx.Name(), key: s.PrioritizedPrimaryField}
	if err := p.check(s); err != nil {
		return nil, fmt.Errorf("gormstore: %w", err)
	}
	quoted := make([]string, 0, len(s.DBNames))
	for _, name := range s.DBNames {
		f := s.FieldsByDBName[name]
		if f.IgnoreMigration && !f.Creatable && !f.Readable {
			continue
		}
		p.fields = append(p.fields, f)
		quoted = append(quoted, stmt.Quote(name))
	}
	p.table = stmt.Quote(s.Table)
	p.columns = strings.Join(quoted, ",")
	p.write(stmt.Quote(p.key.DBName), quoted)
	return p, nil
}

// check refuses what a repository of whole rows cannot keep, instead of losing it.
func (p *plan) check(s *schema.Schema) error {
	var faults []error
	if len(s.PrimaryFields) != 1 {
		faults = append(faults, fmt.Errorf("%s needs exactly one primary key column, it has %d",
			s.Name, len(s.PrimaryFields)))
	}
	p.version = s.FieldsByDBName["version"]
	if p.version == nil || p.version.FieldType.Kind() != reflect.Int64 {
		faults = append(faults, fmt.Errorf("%s needs a column version of type int64", s.Name))
	}
	for name := range s.Relationships.Relations {
		faults = append(faults, fmt.Errorf("%s.%s is an association; keep it in a column (serializer:json) or use NewMapped",
			s.Name, name))
	}
	if len(s.QueryClauses)+len(s.DeleteClauses) > 0 {
		faults = append(faults, fmt.Errorf("%s has soft delete, which a repository does not support", s.Name))
	}
	return errors.Join(faults...)
}

func (p *plan) write(key string, quoted []string) {
	p.get = fmt.Sprintf("SELECT %s FROM %s WHERE %s", p.columns, p.table, key)
	p.insert = fmt.Sprintf("INSERT INTO %s (%s) VALUES ", p.table, p.columns)
	if p.dialect != "mysql" {
		p.onDup = fmt.Sprintf(" ON CONFLICT (%s) DO NOTHING", key)
	}
	b := &binder{dialect: p.dialect}
	b.text("UPDATE ", p.table, " SET ")
	first := true
	version := ""
	for i, f := range p.fields {
		if f == p.version {
			version = quoted[i]
		}
		if f == p.key {
			continue
		}
		if !first {
			b.text(",")
		}
		first = false
		b.text(quoted[i], "=").place()
	}
	b.text(" WHERE ", key, "=").place().text(" AND ", version, "=").place()
	p.update = b.String()
	d := &binder{dialect: p.dialect}
	p.delete = d.text("DELETE FROM ", p.table, " WHERE ", key, "=").place().text(" AND ", version, "=").place().String()
}

// A binder writes SQL with the dialect's placeholders.
type binder struct {
	strings.Builder
	dialect string
	n       int
}

func (b *binder) text(parts ...string) *binder {
	for _, s := range parts {
		b.WriteString(s)
	}
	return b
}

func (b *binder) place() *binder {
	b.n++
	if b.dialect == "postgres" {
		fmt.Fprintf(b, "$%d", b.n)
	} else {
		b.WriteByte('?')
	}
	return b
}

// tuple writes (?,?,…) with n placeholders.
func (b *binder) tuple(n int) *binder {
	b.WriteByte('(')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.place()
	}
	b.WriteByte(')')
	return b
}
