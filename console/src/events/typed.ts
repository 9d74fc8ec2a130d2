// The typed view of an event as names and values, read from the schema, so that a type which is added to the interface is
// shown without a change here. Refuses to know single event types.
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { toJson } from "@bufbuild/protobuf";
import { reflect, type ReflectMessage } from "@bufbuild/protobuf/reflect";
import { StructSchema } from "@bufbuild/protobuf/wkt";
import { EventSchema, type Event } from "../generated/hookstream/v1/event_pb";

/** A field that was sent. */
export interface TypedField {
  /** HeyGen's name of it, with its place: `clips[0].title`. */
  name: string;
  value: string;
}

/** The fields that were sent, in the order of the schema; undefined if the type is not known. */
export function typedFields(event: Event): TypedField[] | undefined {
  const arm = event.payload.case;
  if (arm === undefined) {
    return undefined;
  }
  const field = EventSchema.field[arm];
  const schema: DescMessage | undefined = field?.fieldKind === "message" ? field.message : undefined;
  return schema === undefined ? undefined : fieldsOf(reflect(schema, event.payload.value), "");
}

function fieldsOf(message: ReflectMessage, prefix: string): TypedField[] {
  return message.fields
    .filter((field) => message.isSet(field))
    .flatMap((field) => valuesOf(message, field, prefix + field.name));
}

function valuesOf(message: ReflectMessage, field: DescField, name: string): TypedField[] {
  switch (field.fieldKind) {
    case "message":
      return nested(message.get(field), name);
    case "list": {
      const list = [...message.get(field)];
      return list.flatMap((value, index) => nested(value, `${name}[${index}]`));
    }
    case "map":
      // No payload has one.
      return [];
    default:
      return [{ name, value: String(message.get(field)) }];
  }
}

function nested(value: unknown, name: string): TypedField[] {
  if (!isMessage(value)) {
    return [{ name, value: String(value) }];
  }
  if (value.desc.typeName === StructSchema.typeName) {
    return [{ name, value: JSON.stringify(toJson(value.desc, value.message)) }];
  }
  return fieldsOf(value, `${name}.`);
}

function isMessage(value: unknown): value is ReflectMessage {
  return typeof value === "object" && value !== null && "desc" in value && "message" in value;
}
