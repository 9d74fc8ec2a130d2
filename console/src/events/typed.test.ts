// Claims of the typed view.
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { EventSchema } from "../generated/hookstream/v1/event_pb";
import { typedFields } from "./typed";

test("shows the fields that were sent, under HeyGen's names, in the schema's order", () => {
  const event = create(EventSchema, {
    payload: { case: "avatarVideoFail", value: { msg: "timed out", videoId: "vid_1" } },
  });
  expect(typedFields(event)).toEqual([
    { name: "video_id", value: "vid_1" },
    { name: "msg", value: "timed out" },
  ]);
});

test("names what is in lists and objects by its place", () => {
  const event = create(EventSchema, {
    payload: {
      case: "aiClippingSuccess",
      value: { id: "clp_1", progress: 0.5, clips: [{ id: "a" }, { title: "b" }] },
    },
  });
  expect(typedFields(event)).toEqual([
    { name: "id", value: "clp_1" },
    { name: "progress", value: "0.5" },
    { name: "clips[0].id", value: "a" },
    { name: "clips[1].title", value: "b" },
  ]);
});

test("shows free-form objects as JSON", () => {
  const event = create(EventSchema, {
    payload: { case: "batchFinished", value: { countsByStatus: { done: 3, failed: 1 } } },
  });
  expect(typedFields(event)).toEqual([{ name: "counts_by_status", value: '{"done":3,"failed":1}' }]);
});

test("has nothing to show of a type that is not known", () => {
  expect(typedFields(create(EventSchema, { typeName: "tomorrow.success" }))).toBeUndefined();
});
